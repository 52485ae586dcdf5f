"""Parts of a source that are no range of its pictures."""

import numpy as np

from simclr_jax.data.sources import Source


class Subset:
    """Some pictures of a source (see `simclr_jax.data.sources.Source`).

    Args:
      source: of the pictures.
      rows: int64 [n], their positions, in the order of the subset.
      name: of the subset.
    """

    block = 1

    def __init__(self, source: Source, rows: np.ndarray, name: str):
        self.name, self._source, self._rows = name, source, rows
        self.classes, self.class_names = source.classes, source.class_names

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """As the source's."""
        return self._source.read(self._rows[indices])

    def describe(self, index: int) -> str:
        return self._source.describe(int(self._rows[index]))
