"""Communication of the compiled SimCLR step: z once, sums, and no picture."""

import jax
import numpy as np
import pytest

from simclr_jax.data import augment, augment_device, decoded_cache
from simclr_jax.data.recipes import RECIPES, expand
from simclr_jax.sharding import by_batch, make_mesh
from tests.tools import (
    collectives,
    compiled_step,
    small_batch,
    small_method,
    small_optimiser,
    small_state,
)


@pytest.mark.parametrize("colour", ["host", "device", "device, cropped there"])
def test_one_gather_of_z_and_no_image_traffic(colour):
    mesh, n, side = make_mesh(), 32, 20
    views = expand(RECIPES["simclr"](size=side, blur=0.5))
    batch = small_batch(n, side)
    prepare = lambda b: b  # noqa: E731
    with jax.set_mesh(mesh):
        method, tx = small_method("simclr"), small_optimiser()
        state = small_state(method, tx, batch, mesh)
        if colour != "host":
            prepare = augment_device.prepare(views)
            draw = augment.draw if colour == "device" else decoded_cache.draw
            batch = batch.replace(draws=draw(views, 0, 0, 0, np.arange(n)))
        if "cropped" in colour:
            batch = batch.replace(picture=batch.views[0], views=())
        batch = jax.device_put(batch, by_batch(mesh))
        step = compiled_step(method, tx, mesh, prepare=prepare)
        operations = collectives(step.lower(state, batch).compile())
    gathers = [types for name, types in operations if name == "all-gather"]
    assert len(gathers) == 1
    assert "f32[2,32,8]" in gathers[0].replace("f32[2,8,32]", "f32[2,32,8]")
    # The rest are sums over the devices: of gradients, statistics and metrics.
    assert {name for name, _ in operations} == {"all-gather", "all-reduce"}
    sums = [types for name, types in operations if name == "all-reduce"]
    assert not any(f"{side},{side}" in types for types in sums)
