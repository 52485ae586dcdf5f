"""The three formats hold the same table."""

import csv
import io

import numpy as np
import pyarrow.parquet
import pytest

from simclr_jax.evaluate import tables

FULL = tables.PictureTable(
    "h",
    np.array([[0.1, 1e-20, 3], [-4, 5, 6]], np.float32),
    np.array([0, 1], np.int32),
    np.array(["/a/x,1.png", "/a/ü.png"]),
    np.array([1, 0], np.int32),
    np.array(["cat", "dog"]),
    np.array([[1], [0]], np.int32),
    np.array([[0.5], [0.5]], np.float32),
    np.array([0, -1], np.int32),
)
NONE = np.zeros((0, 0), np.int32)
BARE = tables.PictureTable(
    *("patch", FULL.values, FULL.index, np.array([], np.str_), np.zeros(0, np.int32)),
    *(np.array([], np.str_), NONE, NONE, NONE.ravel()),
)


def test_npz():
    with np.load(io.BytesIO(tables.encode(FULL, "a.npz"))) as arrays:
        assert arrays["h"].dtype == np.float32
        for name, x in FULL._asdict().items():
            if name not in ("feature", "values"):
                np.testing.assert_array_equal(arrays[name], x)
        np.testing.assert_array_equal(arrays["h"], FULL.values)
    with np.load(io.BytesIO(tables.encode(BARE, "a.npz"))) as arrays:
        assert sorted(arrays) == ["index", "patch"]


def test_csv():
    rows = [*csv.DictReader(io.StringIO(tables.encode(FULL, "a.csv").decode()))]
    assert [row["path"] for row in rows] == FULL.path.tolist()
    assert [row["class"] for row in rows] == ["dog", "cat"]
    assert [row["group"] for row in rows] == ["0", "-1"]
    assert rows[0]["neighbour0"] == "1"
    values = [[float(row[f"h{i}"]) for i in range(3)] for row in rows]
    np.testing.assert_array_equal(np.array(values, np.float32), FULL.values)
    head = tables.encode(BARE, "a.csv").decode().splitlines()[0]
    assert head == "index,patch0,patch1,patch2"


def test_parquet():
    content = tables.encode(FULL, "a.parquet")
    columns = pyarrow.parquet.read_table(io.BytesIO(content)).to_pydict()
    assert columns["path"] == FULL.path.tolist()
    assert columns["class"] == ["dog", "cat"]
    assert columns["neighbours"] == [[1], [0]]
    np.testing.assert_array_equal(np.array(columns["h"], np.float32), FULL.values)
    content = tables.encode(BARE, "a.parquet")
    assert pyarrow.parquet.read_table(io.BytesIO(content)).column_names == [
        "index",
        "patch",
    ]


def test_other_endings_and_a_missing_library(monkeypatch):
    with pytest.raises(ValueError, match=r"'\.parket'.*Did you mean '\.parquet'"):
        tables.check_format("a.parket")
    with pytest.raises(ValueError, match="There are"):
        tables.check_format("features")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        tables.check_format("a.parquet")
    tables.check_format("a.csv")
