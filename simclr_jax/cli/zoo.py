"""Imports published weights, exports trained networks, lists published checkpoints.

simclr-jax zoo import --from FORMAT --source PATH --workdir DIR
    [--config.KEY=value ...]
simclr-jax zoo export --workdir DIR --to FORMAT --out PATH
    [--part encoder|encoder+head|encoder+classifier] [--input float|uint8|normalised]
    [--licence TEXT] [--config.method.name=package.module:factory]
simclr-jax zoo list
"""

import argparse

from simclr_jax.cli import common
from simclr_jax.storage.paths import absolute, in_bucket, split
from simclr_jax.suggest import check_name
from simclr_jax.zoo import catalog, published

EXAMPLES = {
    "import": "simclr-jax zoo import --from dino --source dino_vits16.pth "
    "--workdir runs/dino",
    "export": "simclr-jax zoo export --workdir runs/dino --to onnx --out dino.onnx",
    "list": "simclr-jax zoo list",
}
Changes = list[tuple[str, str]]  # of a config: (key, text)


def main(argv: list[str]) -> None:
    """Runs a command of the zoo; see common.run_and_exit for the exit codes."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\nexample:\n  {EXAMPLES['import']}")
        return
    args, changes = read(argv)
    folders = _folders(argv[0], args)
    if folders:
        from simclr_jax.storage.access import check_folder

        with common.usage_errors():
            for path, write in folders:
                check_folder(path, write=write)
    with common.usage_errors(started=True):
        COMMANDS[argv[0]](args, changes)


def read(argv: list[str]) -> tuple[argparse.Namespace, Changes]:
    """The arguments of a command and the changes of its config.

    Raises:
      UsageError: an unknown name; the message suggests the nearest valid one.
      SystemExit: for an unknown argument; the message is printed.
    """
    command = argv[0]
    with common.usage_errors():
        check_name(command, COMMANDS, "simclr-jax zoo")
    parser = common.Parser(
        prog=f"simclr-jax zoo {command}", description=__doc__, example=EXAMPLES[command]
    )
    if command == "import":
        formats = ", ".join(catalog.READERS)
        parser.add_argument("--from", dest="format", required=True, help=formats)
        parser.add_argument("--source", required=True, help="a file, folder or prefix")
        parser.add_argument("--workdir", required=True, help="a new folder")
    if command == "export":
        formats = ", ".join(catalog.WRITERS)
        parser.add_argument("--workdir", required=True, help="of a run or an import")
        parser.add_argument("--to", dest="format", required=True, help=formats)
        parser.add_argument("--out", required=True, help="a new file or folder")
        parser.add_argument("--part", default="encoder", help=", ".join(catalog.PARTS))
        parser.add_argument("--input", default="", help=", ".join(catalog.INPUTS))
        parser.add_argument("--licence", default="", help="for the card, such as MIT")
    args, changes = parser.parse_with_changes(argv[1:])
    allowed = common.PART_NAMES if command == "export" else ()
    if command != "import" and any(key not in allowed for key, _ in changes):
        also = f" It takes {', '.join(allowed)}." if allowed else ""
        parser.error(
            f"{command} has no --config.KEY=VALUE: it does not change a run.{also}"
        )
    with common.usage_errors():
        if command == "import":
            check_name(args.format, catalog.READERS, "--from")
        if command == "export":
            catalog.check_options(args.format, args.part, args.input)
        for name in vars(args).keys() & {"source", "workdir", "out"}:
            setattr(args, name, absolute(getattr(args, name)))
    return args, changes


def _folders(command: str, args: argparse.Namespace) -> list[tuple[str, bool]]:
    """The folders that a command needs, and whether it writes to them."""
    if command == "import":
        return [(args.workdir, True), (_bucket_folder(args.source), False)]
    if command == "export":
        return [(args.workdir, False), (_bucket_folder(args.out), True)]
    return []


def _bucket_folder(path: str) -> str:
    """The folder of a path in a bucket; "" for a local path or a bucket's top level."""
    folder = path.rpartition("/")[0]
    return folder if in_bucket(path) and split(folder)[1] else ""


def _import(args: argparse.Namespace, changes: Changes) -> None:
    from simclr_jax.experiment.importing import import_checkpoint

    result = import_checkpoint(args.format, args.source, args.workdir, changes)
    print(
        f"{result.source} ({result.format}): {result.num_arrays} arrays, with the "
        f"config {result.config}"
    )
    print(f"randomly initialised: {', '.join(result.newly_initialised) or 'nothing'}")
    print(f"not used from the checkpoint: {_counts(result.unused) or 'nothing'}")
    for note in result.notes:
        print(note)
    print(f"evaluate it: simclr-jax evaluate --workdir {args.workdir}")


def _counts(unused: dict[str, int]) -> str:
    return ", ".join(f"{rule} ({n})" if n > 1 else rule for rule, n in unused.items())


def _export(args: argparse.Namespace, changes: Changes) -> None:
    from simclr_jax.experiment.exporting import export_network

    options = args.part, args.input, args.licence, changes
    result = export_network(args.workdir, args.format, args.out, *options)
    size = f"{result.bytes / 1e6:.1f} MB"
    print(f"{result.path}: {result.part} as {result.format}, {size}")
    for line in (result.verification, *result.limits):
        print(line)


def _list(args: argparse.Namespace, changes: Changes) -> None:
    print(published.table())


COMMANDS = {"import": _import, "export": _export, "list": _list}
