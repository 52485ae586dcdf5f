"""The mesh over several slices, simulated on CPUs or compiled for TPUs."""

import importlib.metadata
import re

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax import sharding
from simclr_jax.losses.contrastive import nt_xent
from simclr_jax.plan import compiler


@pytest.fixture
def alternating_slices(monkeypatch):
    """Devices alternate between two slices."""
    of_slice = property(lambda device: device.id % 2)
    monkeypatch.setattr(type(jax.devices()[0]), "slice_index", of_slice, raising=False)


def test_devices_of_a_slice_are_adjacent(alternating_slices):
    mesh = sharding.make_mesh()
    assert [device.slice_index for device in mesh.devices] == [0] * 4 + [1] * 4
    assert {device.id for device in mesh.devices} == set(range(8))
    assert mesh.axis_types == sharding.make_mesh(jax.devices()[:1]).axis_types


def test_a_loss_over_two_slices_is_that_of_one_device(alternating_slices):
    z = np.random.default_rng(0).normal(size=(2, 16, 8)).astype(np.float32)
    one, two = sharding.make_mesh(jax.devices()[:1]), sharding.make_mesh()
    assert two.size == 8
    results = []
    for mesh in one, two:
        with jax.set_mesh(mesh):
            rows = jax.device_put(z, NamedSharding(mesh, P(None, sharding.DATA)))
            step = jax.jit(jax.value_and_grad(lambda z: nt_xent(z, 0.1)[0]))
            results.append(jax.device_get(step(rows)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)


def test_slices_of_unequal_size_are_refused(monkeypatch):
    of_slice = property(lambda device: int(device.id > 2))
    monkeypatch.setattr(type(jax.devices()[0]), "slice_index", of_slice, raising=False)
    with pytest.raises(ValueError, match="must equal the product of mesh_shape"):
        sharding.make_mesh()


@pytest.mark.long
def test_a_sum_over_two_slices_sends_an_eighth_per_chip(monkeypatch):
    """Two slices of 8 chips: each chip sends an eighth of the gradient."""
    try:
        importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip('needs the compiler for TPUs: pip install "jax[tpu]"')
    for name, value in compiler.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name="v5e:2x4", num_slices=2
    )
    mesh = sharding.make_mesh(list(topology.devices))
    assert [device.slice_index for device in mesh.devices] == [0] * 8 + [1] * 8
    gradient = jax.ShapeDtypeStruct(
        (16, 2048, 1024), "float32", sharding=NamedSharding(mesh, P(sharding.DATA))
    )
    total = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, P()))
    text = str(total.lower(gradient).compile().as_text())
    groups = re.findall(r"(reduce-scatter|all-gather)\(.*replica_groups=(\S+),", text)
    assert {operation for operation, _ in groups} == {"reduce-scatter", "all-gather"}
    assert {group for _, group in groups} == {"{{0,1,2,3,4,5,6,7}}"}
    sent = re.findall(r"= \(f32\[([\d,]+)\]\S*, .* send\(", text)
    sizes = [np.prod([int(side) for side in shape.split(",")]) for shape in sent]
    assert sizes == [2048 * 1024 // 8]
