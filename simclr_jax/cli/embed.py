"""Writes the features of pictures, one row a picture, as a table.

  simclr-jax embed --workdir DIR --images FOLDER|SET --out FILE.npz|.parquet|.csv
      [--features h|z|cls|patch|...] [--split NAME] [--data_dir DIR]
      [--neighbours K] [--duplicates COSINE]

A folder's pictures are all in it, at any depth; their sub-folders are the labels if all
have one. SET is cifar10_mini or of TensorFlow Datasets, of which --split names a part.
Pictures are cropped and resized as for an evaluation. --neighbours adds the K most
similar other pictures of each, --duplicates the groups of those whose cosine is above a
number such as 0.98; both also draw a gallery beside FILE.
"""

import argparse
from typing import TYPE_CHECKING

from simclr_jax.cli import common

if TYPE_CHECKING:
    from simclr_jax.experiment.embedding import Options

EXAMPLE = "simclr-jax embed --workdir runs/mine --images pictures --out features.npz"
SHOWN = 5  # groups of duplicates that are printed
NAMES = 4  # pictures of a printed group


def main(argv: list[str]) -> None:
    """Runs the command; see `common.run_and_exit` for the exit codes."""
    arguments, options, changes = read(argv)
    from simclr_jax import compilation_cache
    from simclr_jax.data.picture_files import open_pictures
    from simclr_jax.experiment import embedding
    from simclr_jax.experiment.encoder import open_encoder
    from simclr_jax.storage.paths import absolute

    with compilation_cache.enabled(), common.usage_errors(pictures=True):
        embedding.check_outputs(options)
        images, data_dir = arguments.images, arguments.data_dir
        source = open_pictures(images, data_dir=data_dir, split=arguments.split)
        embedding.check(options, source)
        encoder = open_encoder(absolute(arguments.workdir), changes)
        with common.progress_bar("embed", "picture") as progress:
            table = embedding.embed(options, encoder, source, progress)
        paths = embedding.write(options, table, source)
    count, width = table.values.shape
    print(f"{count} pictures of {source.name}: {options.feature} [{count}, {width}]")
    if options.duplicates:
        print_groups(options, table)
    print(f"written: {', '.join(paths)}")


def read(
    argv: list[str],
) -> "tuple[argparse.Namespace, Options, list[tuple[str, str]]]":
    """The arguments, what is to be written, and names of parts from outside.

    Raises:
      UsageError: an invalid value.
      SystemExit: for unknown arguments; the message is printed.
    """
    parser = common.Parser(
        prog="simclr-jax embed", description=__doc__, example=EXAMPLE
    )
    parser.add_argument("--workdir", required=True, help="of a run or an import")
    parser.add_argument("--images", required=True, help="a folder, or a set's name")
    parser.add_argument("--out", required=True, help="FILE.npz, .parquet or .csv")
    parser.add_argument("--features", default="h", help="h, z, cls, patch, ...")
    parser.add_argument("--split", default="", help="of a set or a folder: train, ...")
    parser.add_argument("--data_dir", default="", help="of TensorFlow Datasets")
    parser.add_argument("--neighbours", type=int, default=0, help="of each picture")
    parser.add_argument("--duplicates", type=float, default=0.0, help="cosine: 0.98")
    arguments, changes = parser.parse_with_changes(argv)
    parser.check_part_names(changes)
    from simclr_jax.experiment.embedding import Options
    from simclr_jax.storage.paths import absolute

    with common.usage_errors():
        options = Options(
            absolute(arguments.out),
            arguments.features,
            arguments.neighbours,
            arguments.duplicates,
        )
    return arguments, options, changes


def print_groups(options: "Options", table) -> None:
    """Prints the largest groups of near duplicates."""
    from simclr_jax.experiment.embedding import groups, name

    found = groups(table)
    print(f"{len(found)} groups of near duplicates, cosine above {options.duplicates}")
    for rows in found[:SHOWN]:
        names = ", ".join(name(table, row) for row in rows[:NAMES])
        print(f"  {names}{', ...' if len(rows) > NAMES else ''}")
    if len(found) > SHOWN:
        print("  ...")
