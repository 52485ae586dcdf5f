"""Both names of TPU slices, as Cloud TPU's pages list them."""

import pytest

from simclr_jax.plan import topology

SLICES = {  # of the pages on v2 to v6e: type, grid of chips
    "v2-8": "v2:2x2",
    "v2-32": "v2:4x4",
    "v2-256": "v2:8x16",
    "v3-8": "v3:2x2",
    "v3-64": "v3:4x8",
    "v3-2048": "v3:32x32",
    "v4-8": "v4:2x2x1",
    "v4-16": "v4:2x2x2",
    "v4-32": "v4:2x2x4",
    "v4-64": "v4:2x4x4",
    "v4-128": "v4:4x4x4",
    "v4-512": "v4:4x8x8",
    "v5litepod-1": "v5e:1x1",
    "v5litepod-4": "v5e:2x2",
    "v5litepod-8": "v5e:2x4",
    "v5litepod-64": "v5e:8x8",
    "v5litepod-128": "v5e:8x16",
    "v5p-8": "v5p:2x2x1",
    "v5p-256": "v5p:4x4x8",
    "v5p-8192": "v5p:16x16x16",
    "v6e-16": "v6e:4x4",
    "v6e-256": "v6e:16x16",
}


@pytest.mark.parametrize(("cloud", "jax"), SLICES.items())
def test_a_slice_has_two_names(cloud, jax):
    assert topology.of_type(cloud) == topology.of_type(jax) == jax
    assert topology.cloud_type(jax) == cloud
    assert topology.both_names(jax) == f"{jax} = {cloud}"


@pytest.mark.parametrize(
    "grid", ["v4:2x2x8", "v5e:4x2", "v5p:16x16x24", "v9:2x2", "v4:"]
)
def test_another_grid_has_one_name(grid):
    assert topology.of_type(grid) == topology.both_names(grid) == grid


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5litepo-64", "unknown 'v5litepo-64'.*v5litepod"),
        ("v5e", "unknown 'v5e'"),
        ("v5p-12288", "power of two from 8 on .of cores.*v5p:AxBxC"),
        ("v4-4", "power of two from 8 on"),
        ("v6e-x", "power of two from 1 on .of chips.*v6e:AxB"),
    ],
)
def test_a_wrong_type(text, message):
    with pytest.raises(ValueError, match=message):
        topology.of_type(text)
