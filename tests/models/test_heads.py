from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.distillation import prototype_logits, weight_normalised
from simclr_jax.models.heads import DistillationHead, projector


def sizes(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("layers", "count"), [(2, 4_460_672), (3, 8_659_072)])
def test_published_parameter_counts(layers, count):
    h = jax.ShapeDtypeStruct((1, 2048), jnp.float32)
    head = projector(layers=layers)
    variables = jax.eval_shape(lambda h: head.init(jax.random.key(0), h, False), h)
    assert sizes(variables["params"]) == count


def build(layers=3, **keywords):
    head = projector(layers=layers, out=4, **keywords)
    h = jax.random.normal(jax.random.key(1), (16, 8)) + 1
    variables = head.init(jax.random.key(0), h, False)
    noise = jax.random.normal(jax.random.key(2), (64,))
    filled = jax.tree.map(lambda p: p + noise[: p.shape[-1]], variables["params"])
    return head, h, {**variables, "params": filled}


def by_hand(params, h, layers):
    """The head's first layers in float64: [outputs after 0, 1, ... layers]."""
    x = np.asarray(h, np.float64)
    outputs = [x]
    for i in range(1, layers + 1):
        x = x @ np.asarray(params[f"dense{i}"]["kernel"], np.float64)
        norm = params[f"bn{i}"]
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * np.asarray(norm["scale"])
        x = np.maximum(x + np.asarray(norm["bias"]), 0) if i < layers else x
        outputs.append(x)
    return outputs


def test_layers_and_selector():
    head, h, variables = build()
    assert set(variables["params"]["dense3"]) == {"kernel"}
    assert set(variables["params"]["bn3"]) == {"scale"}  # it does not shift
    expected = by_hand(variables["params"], h, 3)
    for upto, out in [*enumerate(expected), (-1, expected[-1])]:
        x, _ = head.apply(variables, h, True, upto=upto, mutable=["batch_stats"])
        np.testing.assert_allclose(x, out, atol=2e-4)
        assert x.dtype == jnp.float32


def test_selector_has_limits():
    head, h, variables = build(layers=2)
    for upto in (3, -2):
        with pytest.raises(ValueError, match=f"upto = {upto}.*2 layers"):
            head.apply(variables, h, False, upto=upto)


def test_widths():
    _, _, variables = build(hidden=6)
    shapes = [variables["params"][f"dense{i}"]["kernel"].shape for i in (1, 2, 3)]
    assert shapes == [(8, 6), (6, 6), (6, 4)]
    _, _, variables = build()
    assert variables["params"]["dense2"]["kernel"].shape == (8, 8)  # as wide as h
    assert len(build(layers=1)[2]["params"]) == 2  # one Dense, one norm


def test_starts_at_the_published_scale():
    h = jnp.zeros((1, 512))
    params: Any = projector().init(jax.random.key(0), h, False)["params"]
    assert np.std(params["dense1"]["kernel"]) == pytest.approx(0.01, rel=0.01)


def test_needs_a_layer():
    with pytest.raises(ValueError, match="layers = 0"):
        projector(layers=0)


def test_dinos_head_and_prototypes_are_the_released_ones():
    def waves(rows, columns, shift):
        i, j = np.mgrid[:rows, :columns]
        return np.sin(0.7 * (i * columns + j) + shift)

    def dense(out, inside):
        return {
            "kernel": waves(out, inside, 0.3).T,
            "bias": 0.1 * waves(1, out, 0.1)[0],
        }

    params = {"dense1": dense(7, 8), "dense2": dense(7, 7), "dense3": dense(4, 7)}
    head, x = DistillationHead(7, 4), waves(2, 8, 0)
    z: Any = head.apply({"params": params}, x, train=True)
    np.testing.assert_allclose(jnp.linalg.norm(z, axis=-1), 1, rtol=1e-6)
    expected = [
        [0.08419681, 0.18934483, -0.46280773, 0.70140394, -0.85318937, 0.87983591],
        [0.3883078, -0.22134074, 0.01843122, 0.20411043, -0.40989812, 0.55516894],
    ]
    logits = prototype_logits(z, weight_normalised(waves(6, 4, 0.3)))
    np.testing.assert_allclose(logits, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("batch_norm", "out", "prototypes", "count"),
    [(False, 256, 65536, 22_352_128), (True, 256, 60000, 24_345_440)],
)
def test_dinos_published_sizes(batch_norm, out, prototypes, count):
    """Of ViT-S (384 wide) and of the ResNet-50 (2048 wide), with lengths."""
    head = DistillationHead(2048, out, batch_norm)
    h = jax.ShapeDtypeStruct((2, 2048 if batch_norm else 384), jnp.float32)
    shapes = jax.eval_shape(
        lambda h: head.init(jax.random.key(0), h, train=True)["params"], h
    )
    own = sum(x.size for x in jax.tree.leaves(shapes)) + prototypes * (out + 1)
    assert own == count
