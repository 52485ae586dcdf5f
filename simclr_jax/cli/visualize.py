"""Draws what an encoder attends to in pictures, and its features at every position.

  simclr-jax visualize --workdir DIR --images FOLDER|SET --out FOLDER
      [--size PIXELS] [--count N] [--split NAME] [--data_dir DIR]

For every picture a PNG file: the picture as the encoder gets it; of a vision
transformer the attention of the class token in the last block, the mean and each head;
the features of the patches, or of a ResNet its last feature map, by their first three
principal components as red, green and blue. overview.png has the first pictures. The
components are those of all pictures together: equal colours are similar features.
"""

import argparse

from simclr_jax.cli import common

EXAMPLE = "simclr-jax visualize --workdir runs/dino --images pictures --out maps"


def main(argv: list[str]) -> None:
    """Runs the command; see `common.run_and_exit` for the exit codes."""
    arguments, changes = read(argv)
    from simclr_jax import compilation_cache
    from simclr_jax.data.picture_files import open_pictures
    from simclr_jax.experiment import visualisation
    from simclr_jax.experiment.encoder import open_encoder
    from simclr_jax.experiment.outputs import check_empty, write_all
    from simclr_jax.storage.paths import absolute

    with compilation_cache.enabled(), common.usage_errors(pictures=True):
        out = absolute(arguments.out)
        check_empty(out)
        images, data_dir = arguments.images, arguments.data_dir
        source = open_pictures(images, data_dir=data_dir, split=arguments.split)
        encoder = open_encoder(absolute(arguments.workdir), changes)
        rows = visualisation.spread(len(source), arguments.count)
        size = arguments.size or encoder.size
        with common.progress_bar("visualize", "picture") as progress:
            views, maps = visualisation.prepared_features(
                encoder, source, rows, size, progress
            )
        drawings = visualisation.drawings(source, rows, views, maps)
        paths = write_all((f"{out}/{name}", png) for name, png in drawings)
    part = "" if len(rows) == len(source) else f" of {len(source)}"
    print(f"{len(rows)}{part} pictures of {source.name}: {len(paths)} files in {out}")


def read(argv: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The arguments, and names of parts from outside.

    Raises:
      UsageError: an invalid value.
      SystemExit: for unknown arguments; the message is printed.
    """
    parser = common.Parser(
        prog="simclr-jax visualize", description=__doc__, example=EXAMPLE
    )
    parser.add_argument("--workdir", required=True, help="of a run or an import")
    parser.add_argument("--images", required=True, help="a folder, or a set's name")
    parser.add_argument("--out", required=True, help="a new folder")
    parser.add_argument("--size", type=int, default=0, help="default: the training's")
    parser.add_argument(
        "--count", type=int, default=64, help="at most, evenly spaced; default 64"
    )
    parser.add_argument("--split", default="", help="of a set or a folder: train, ...")
    parser.add_argument("--data_dir", default="", help="of TensorFlow Datasets")
    arguments, changes = parser.parse_with_changes(argv)
    parser.check_part_names(changes)
    for option, least in (("size", 0), ("count", 1)):
        value = getattr(arguments, option)
        if value < least:
            parser.error(f"--{option}={value}: must be {least} or more.")
    return arguments, changes
