"""Where arrays live: one mesh, three placements, one gather."""

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DATA = "data"  # the only axis name the losses and the step ever rely on


def make_mesh(devices=None) -> Mesh:
    """All devices in a row along the batch axis, in the compiler's (Auto) mode.

    `jax.make_mesh` makes Explicit axes by default; Linen's layers are written for
    Auto ones, so the house says Auto out loud.

    The devices of a slice (a TPU slice, a node of GPUs) stand together: what is summed
    over all of them is summed within slices first, and little crosses the slow network
    between them. `jax.make_mesh` refuses several slices.

    Args:
      devices: the devices to use; all of the run's by default.
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
    """Every device holds its own rows of the leading axis."""
    return NamedSharding(mesh, P(DATA))


def fsdp(mesh: Mesh, tree, smallest: int = 2**16):
    """Shards each big leaf over the mesh along its largest axis that divides.

    Args:
      tree: arrays or their shapes.
      smallest: leaves with fewer elements stay replicated; to move them would cost
        more than to keep them.

    Returns:
      The tree of NamedShardings.
    """
    n = mesh.size

    def place(leaf):
        axes = [i for i, side in enumerate(leaf.shape) if side % n == 0]
        if not axes or leaf.size < smallest:
            return replicated(mesh)
        largest = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, P(*[None] * largest, DATA))

    return jax.tree.map(place, tree)


def mesh_size() -> int:
    """The number of devices of the mesh in use; 1 outside a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.size


def all_gather(x):
    """Gives every device all rows of `x`; outside a mesh there is nothing to do."""
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, P())


def split_rows(x):
    """Leaves each device its own rows of [V, N, ...], N the batch; see `all_gather`."""
    mesh = jax.sharding.get_abstract_mesh()
    where = P(None, DATA)
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, where)
