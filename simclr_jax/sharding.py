"""The mesh, the shardings of arrays on it, and the gather of the losses."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DATA = "data"  # the only axis of the mesh


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh of all devices, whose only axis is in Auto mode.

    The default of `jax.make_mesh` is Explicit, but Linen's layers need Auto.

    The devices of a slice (a TPU slice, a node of GPUs) are adjacent, so that sums over
    all devices are first computed within slices, and few bytes are sent over the slow
    network between them. `jax.make_mesh` does not support several slices.

    Args:
      devices: all devices of the run by default.
    """
    devices = jax.devices() if devices is None else devices
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        shape = (len(devices) // slices,), (slices,)
        row = mesh_utils.create_hybrid_device_mesh(*shape, devices)
        return Mesh(row, (DATA,), (AxisType.Auto,))
    return jax.make_mesh((len(devices),), (DATA,), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def by_batch(mesh: Mesh) -> NamedSharding:
    """Every device holds a part of the rows of the leading axis."""
    return NamedSharding(mesh, P(DATA))


def fsdp(mesh: Mesh, tree: Any, smallest: int = 2**16) -> Any:
    """Shards large leaves over the mesh, along the largest axis divisible by its size.

    Args:
      tree: arrays or their shapes.
      smallest: leaves with fewer elements are replicated: gathering them would cost
        more than storing them.

    Returns:
      The tree of NamedShardings.
    """
    n = mesh.size

    def leaf_sharding(leaf: Any) -> NamedSharding:
        axes = [i for i, side in enumerate(leaf.shape) if side % n == 0]
        if not axes or leaf.size < smallest:
            return replicated(mesh)
        largest = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, P(*[None] * largest, DATA))

    return jax.tree.map(leaf_sharding, tree)


def mesh_size() -> int:
    """The number of devices of the mesh in use; 1 outside a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.size


def all_gather(x: jax.Array) -> jax.Array:
    """Gives every device all rows of `x`; without a mesh, returns `x`."""
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, P())


def split_rows(x: jax.Array) -> jax.Array:
    """Shards [V, N, ...] over its axis of N images; without a mesh, returns `x`."""
    mesh = jax.sharding.get_abstract_mesh()
    rows = P(None, DATA)
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, rows)
