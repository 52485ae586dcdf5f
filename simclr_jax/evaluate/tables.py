"""Features of pictures as a file: NumPy's archive, Parquet or CSV."""

import csv
import importlib.util
import io
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from simclr_jax.suggest import check_name


class PictureTable(NamedTuple):
    """N rows; columns that do not apply are empty arrays."""

    feature: str  # the name of `values`
    values: np.ndarray  # float32 [N, F]
    index: np.ndarray  # int32 [N], positions in the source
    path: np.ndarray  # str [N], or [0] if the pictures are no files
    label: np.ndarray  # int32 [N], or [0] without labels
    class_names: np.ndarray  # str [C], or [0]
    neighbours: np.ndarray  # int32 [N, K], indices, or [0, 0]
    similarity: np.ndarray  # float32 [N, K], their cosines, or [0, 0]
    group: np.ndarray  # int32 [N], of near duplicates, -1: none; or [0]


def check_format(path: str) -> None:
    """Checks that a file with this ending can be written.

    Raises:
      ValueError: another ending, or a library is missing.
    """
    ending = os.path.splitext(path)[1]
    check_name(ending, FORMATS, f"the ending of {path}")
    if ending == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError("Parquet files need pyarrow: pip install pyarrow.")


def encode(table: PictureTable, path: str) -> bytes:
    """The content of a file with the ending of this path."""
    return FORMATS[os.path.splitext(path)[1]](table)


def _npz(table: PictureTable) -> bytes:
    arrays = table._asdict()
    arrays[arrays.pop("feature")] = arrays.pop("values")
    buffer = io.BytesIO()
    np.savez(buffer, **{name: x for name, x in arrays.items() if x.size})
    return buffer.getvalue()


def _csv(table: PictureTable) -> bytes:
    columns = _singles(table)
    for name, x in (
        (table.feature, table.values),
        ("neighbour", table.neighbours),
        ("similarity", table.similarity),
    ):
        columns |= {f"{name}{i}": column for i, column in enumerate(x.T)}
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(columns)
    writer.writerows(zip(*(x.tolist() for x in columns.values()), strict=True))
    return buffer.getvalue().encode()


def _parquet(table: PictureTable) -> bytes:
    import pyarrow
    import pyarrow.parquet

    columns = {name: pyarrow.array(x.tolist()) for name, x in _singles(table).items()}
    columns |= {
        name: pyarrow.FixedSizeListArray.from_arrays(x.ravel(), x.shape[1])
        for name, x in (
            (table.feature, table.values),
            ("neighbours", table.neighbours),
            ("similarity", table.similarity),
        )
        if x.size
    }
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def _singles(table: PictureTable) -> dict[str, np.ndarray]:
    """The columns with one value in a row."""
    columns = {"index": table.index, "path": table.path, "label": table.label}
    if len(table.label) and len(table.class_names):
        columns["class"] = table.class_names[table.label]
    columns["group"] = table.group
    return {name: x for name, x in columns.items() if len(x)}


FORMATS: dict[str, Callable[[PictureTable], bytes]] = {
    ".npz": _npz,
    ".parquet": _parquet,
    ".csv": _csv,
}
