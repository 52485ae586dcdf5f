"""Features of a user's pictures as a table, with neighbours and near duplicates."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from simclr_jax.data import tfdata
from simclr_jax.data.sources import Source
from simclr_jax.evaluate import galleries, neighbours, tables
from simclr_jax.evaluate.galleries import Cell
from simclr_jax.experiment.encoder import Encoder
from simclr_jax.experiment.outputs import check_absent, write_all

QUERIES = 12  # rows of a gallery, at most
COLUMNS = 8  # pictures of a row beside the first, at most


class Options(NamedTuple):
    """What is computed and written."""

    out: str  # an absolute path
    feature: str = "h"
    neighbours: int = 0  # of every picture; 0: none
    duplicates: float = 0.0  # the smallest cosine of near duplicates; 0: none


def outputs(options: Options) -> list[str]:
    """The paths of the files that will be written: the table, then galleries."""
    stem = os.path.splitext(options.out)[0]
    paths = [options.out]
    paths += [f"{stem}.neighbours.png"] if options.neighbours else []
    return paths + ([f"{stem}.duplicates.png"] if options.duplicates else [])


def check_outputs(options: Options) -> None:
    """Checks that the files can be written.

    Raises:
      ValueError: an unknown ending, a missing library, or a file that exists.
    """
    tables.check_format(options.out)
    check_absent(outputs(options))


def check(options: Options, source: Source) -> None:
    """Checks the numbers of the options.

    Raises:
      ValueError: one is outside its range for these pictures.
    """
    if not 0 <= options.neighbours < len(source):
        raise ValueError(
            f"--neighbours={options.neighbours}: {source.name} has {len(source)} "
            f"pictures, so every picture has at most {len(source) - 1}."
        )
    if not 0 <= options.duplicates < 1:
        raise ValueError(
            f"--duplicates={options.duplicates}: a cosine below 1, such as 0.98."
        )


def embed(
    options: Options,
    encoder: Encoder,
    source: Source,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tables.PictureTable:
    """The table of a source's pictures.

    Args:
      source: whose `describe` gives paths if it has `files`.
      progress: called with the pictures read so far and the total.

    Raises:
      ValueError: as in `Encoder.of_source`.
      UnreadablePicture: a picture cannot be read; the message names it.
    """
    features = encoder.of_source(source, options.feature, progress)
    values, mesh = features.values[options.feature], encoder.mesh
    named = bool(getattr(source, "files", ()))
    paths = [source.describe(i) for i in range(len(source))] if named else []
    none = np.zeros((0, 0), np.int32)
    nearest, group = (none, none.astype(np.float32)), none.ravel()
    with jax.set_mesh(mesh):
        if options.neighbours:
            nearest = neighbours.nearest(values, options.neighbours, mesh)
        if options.duplicates:
            group = neighbours.duplicate_groups(values, options.duplicates, mesh)
    return tables.PictureTable(
        options.feature,
        values,
        features.index,
        np.array(paths, np.str_),
        features.label,
        np.array(source.class_names, np.str_),
        *nearest,
        group,
    )


def write(options: Options, table: tables.PictureTable, source: Source) -> list[str]:
    """Writes the files of `outputs`, galleries only of what there is; their paths."""
    contents = {options.out: tables.encode(table, options.out)}
    for path in outputs(options)[1:]:
        rows = [*_neighbour_rows(table, source)]
        if path.endswith(".duplicates.png"):
            rows = [*_duplicate_rows(table, source)]
        if rows:
            contents[path] = galleries.png(rows)
    return write_all(contents.items())


def groups(table: tables.PictureTable) -> list[np.ndarray]:
    """The rows of each group of near duplicates, the largest group first."""
    count = table.group.max(initial=-1) + 1
    return [np.flatnonzero(table.group == i) for i in range(count)]


def name(table: tables.PictureTable, row: int) -> str:
    """The path or the index of a picture, for people."""
    return str(table.path[row]) if len(table.path) else f"picture {table.index[row]}"


def _neighbour_rows(table, source) -> Iterator[list[Cell]]:
    """Some pictures, evenly spaced, each followed by its neighbours."""
    count = min(QUERIES, len(table.index))
    for row in np.linspace(0, len(table.index) - 1, count).astype(int):
        near = table.neighbours[row][:COLUMNS]
        pictures = tfdata.read_pictures(source, [row, *near])
        captions = [_short(table, row)]
        captions += [f"{x:.3f}" for x in table.similarity[row][:COLUMNS]]
        yield [Cell(*pair) for pair in zip(pictures, captions, strict=True)]


def _duplicate_rows(table, source) -> Iterator[list[Cell]]:
    """The largest groups of near duplicates."""
    for rows in groups(table)[:QUERIES]:
        shown = rows[: COLUMNS + 1]
        captions = [_short(table, row) for row in shown]
        if len(rows) > len(shown):
            captions[-1] = f"and {len(rows) - len(shown)} more"
        pictures = tfdata.read_pictures(source, shown)
        yield [Cell(*pair) for pair in zip(pictures, captions, strict=True)]


def _short(table, row) -> str:
    """The name of a file, or the index, with the class if there is one."""
    return os.path.basename(name(table, row))
