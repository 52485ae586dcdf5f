"""The type of the batches that the input pipeline makes."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """N images; a pytree. Absent fields are None or (), and have no leaves.

    The leaves are numpy arrays with the rows of one process, global jax arrays split
    by rows over the mesh, or their shapes.

    Attributes:
      draws: V dicts of arrays with N rows: the random numbers with which the device
        crops and colours the views (see `data.augment_device.prepare`).
      index: int32 [N], positions in the split.
      label: int32 [N].
      picture: uint8 [N, S, S, 3], whole pictures from which the device crops the views.
      valid: bool [N], False for padding rows of the last batch of an evaluation.
      views: V of uint8 or float32 [N, S, S, 3]; float32 is in [0, 1]. An evaluation has
        one.
    """

    draws: Any = None
    index: Any = None
    label: Any = None
    picture: Any = None
    valid: Any = None
    views: tuple[Any, ...] = ()

    def replace(self, **changes: Any) -> "Batch":
        """A copy with other values in the named fields."""
        return dataclasses.replace(self, **changes)
