"""Pictures in NumPy arrays as a source."""

from collections.abc import Sequence

import numpy as np


class Arrays:
    """A source (see `simclr_jax.data.sources.Source`) over decoded pictures in memory.

    Args:
      images: uint8 [N, H, W, 3]; an array on disk, by np.load(..., mmap_mode="r"),
        will do.
      label: integers [N] in [0, C), or None without labels.
      name: of the set and its split, "satellite/train".
      class_names: C names; without them, C is the largest label + 1.

    Raises:
      ValueError: an array has another shape or dtype, or a label is out of range.
    """

    block = 1

    def __init__(
        self,
        images: np.ndarray,
        label: np.ndarray | None = None,
        *,
        name: str,
        class_names: Sequence[str] = (),
    ):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(
                f"{name}: pictures must be uint8 [N, H, W, 3], got {images.dtype} "
                f"{list(images.shape)}."
            )
        self.name, self.class_names = name, tuple(class_names)
        self._images, self._label, self.classes = images, None, 0
        if label is not None:
            label = np.asarray(label)
            self.classes = len(self.class_names) or int(label.max(initial=-1)) + 1
            _check_label(name, label, len(images), self.classes)
            self._label = label.astype(np.int32)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """{"image": uint8 [n, H, W, 3], "label": int32 [n], only with labels}."""
        rows = {"image": self._images[indices]}
        return rows if self._label is None else rows | {"label": self._label[indices]}

    def describe(self, index: int) -> str:
        return f"{self.name} picture {index}"


def _check_label(name: str, label: np.ndarray, count: int, classes: int) -> None:
    if not np.issubdtype(label.dtype, np.integer) or label.shape != (count,):
        raise ValueError(
            f"{name}: labels must be integers [{count}], one for each picture; got "
            f"{label.dtype} {list(label.shape)}."
        )
    if count and not 0 <= label.min() <= label.max() < classes:
        raise ValueError(
            f"{name}: labels must be in [0, {classes}), one number for each class; "
            f"they go from {label.min()} to {label.max()}."
        )
