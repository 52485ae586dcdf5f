"""A list of weights that other projects have published, read from published.csv.

Nothing is downloaded and no weights are part of this package: users fetch a file
themselves, under its licence, and import it. Where the file names of a project are not
known, the location is the project's name.
"""

import csv
import functools
import pathlib
import textwrap
from typing import NamedTuple

TABLE = pathlib.Path(__file__).with_name("published.csv")
UNSTATED = "see the project"  # a licence that is not recorded in the table
WIDTH = 100  # columns of the table


class PublishedCheckpoint(NamedTuple):
    """A published file or family of files; the fields are the columns of the table."""

    format: str  # of `zoo import --from`
    model: str
    location: str  # bucket/object, or the project
    file: str  # type of file
    licence: str
    top1: float | None  # on ImageNet in %, as published; None: not recorded
    protocol: str  # how it was measured

    @property
    def command(self) -> str:
        """The command that imports it, once it is on disk."""
        return f"simclr-jax zoo import --from {self.format} --source PATH --workdir DIR"


@functools.cache
def checkpoints() -> tuple[PublishedCheckpoint, ...]:
    """All rows of the table, in order."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return tuple(map(_parse, csv.DictReader(file)))


def _parse(row: dict[str, str]) -> PublishedCheckpoint:
    return PublishedCheckpoint(
        format=row["format"],
        model=row["model"],
        location=row["location"],
        file=row["file"],
        licence=row["licence"],
        top1=float(row["top1"]) if row["top1"] else None,
        protocol=row["protocol"],
    )


def licence_notes(format: str) -> list[str]:
    """One sentence for each licence recorded for files of an import format."""
    licences = [row.licence for row in checkpoints() if row.format == format]
    return [
        f"Published files of this format: {licence}."
        for licence in dict.fromkeys(licences)
        if licence != UNSTATED
    ]


def table() -> str:
    """All rows in groups of one format, file type, licence and folder; and commands.

    At most WIDTH columns wide.
    """
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for row in checkpoints():
        *folders, rest = row.location.split("/", 2)
        heading = row.format, row.file, row.licence, "".join(f"{x}/" for x in folders)
        top1 = "-" if row.top1 is None else str(row.top1)
        groups.setdefault(heading, []).append((row.model, top1, row.protocol, rest))
    lines = []
    for (format, file, licence, folder), rows in groups.items():
        where = f" in {folder}" if folder else ""
        heading = f"{format}: {file}{where}; licence: {licence}"
        lines += [
            *textwrap.wrap(heading, WIDTH, subsequent_indent="    "),
            *_columns(rows),
        ]
        lines.append("")
    commands = dict.fromkeys(row.command for row in checkpoints())
    note = (
        "Columns: model, top-1 % on ImageNet as the project states it, how it was\n"
        "measured, path. Nothing is downloaded: fetch a file yourself, under its\n"
        "licence, then run one of"
    )
    return "\n".join([*lines, note, "", *commands])


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(x.ljust(n) for x, n in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
