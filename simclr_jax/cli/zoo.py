"""The zoo's door: weights in, weights out.

python -m simclr_jax zoo import --from FORMAT --source PATH --workdir DIR
    [--config.KEY=value ...]
python -m simclr_jax zoo export --workdir DIR --to FORMAT --out PATH
    [--part encoder|encoder+head|encoder+classifier] [--input float|uint8|normalised]
    [--licence TEXT]
python -m simclr_jax zoo list
"""

from simclr_jax.cli import common
from simclr_jax.experiment import exporting, importing
from simclr_jax.storage.access import check_folder
from simclr_jax.storage.paths import absolute, in_bucket, split
from simclr_jax.suggest import check_name
from simclr_jax.zoo import published
from simclr_jax.zoo.formats import FORMATS
from simclr_jax.zoo.network import INPUTS, PARTS

EXAMPLE = "python -m simclr_jax zoo list"


def main(argv: list[str]) -> None:
    """Does as the command line says; see common.run_and_exit for the exit codes."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return
    asked, changes = read(argv)
    with common.usage_errors():
        for path, write in folders(argv[0], asked):
            check_folder(path, write=write)
    with common.usage_errors(started=True):
        COMMANDS[argv[0]](asked, changes)


def read(argv: list[str]):
    """What a command line says: (arguments, changes of the config).

    Raises:
      UsageError: there is no such command, with the nearest right spelling.
      SystemExit: for words that are not understood; the message is printed.
    """
    with common.usage_errors():
        check_name(argv[0], COMMANDS, "simclr_jax.zoo")
    words = common.Parser(
        prog=f"simclr_jax.zoo {argv[0]}", description=__doc__, example=EXAMPLE
    )
    if argv[0] == "import":
        formats = ", ".join(FORMATS)
        words.add_argument("--from", dest="format", required=True, help=formats)
        words.add_argument("--source", required=True, help="a file, folder or prefix")
        words.add_argument("--workdir", required=True, help="a new one")
    if argv[0] == "export":
        words.add_argument("--workdir", required=True)
        words.add_argument("--to", required=True, help=", ".join(exporting.WRITERS))
        words.add_argument("--out", required=True, help="a file or folder, a new one")
        words.add_argument("--part", default="encoder", help=", ".join(PARTS))
        words.add_argument("--input", default="", help=", ".join(INPUTS))
        words.add_argument("--licence", default="", help="for the card, such as MIT")
    asked, changes = words.parse_with_changes(argv[1:])
    if changes and argv[0] != "import":
        words.error(f"{argv[0]} takes what is there as it is: no --config.KEY=VALUE.")
    with common.usage_errors():
        for name in vars(asked).keys() & {"source", "workdir", "out"}:
            setattr(asked, name, absolute(getattr(asked, name)))
    return asked, changes


def folders(command: str, asked) -> list[tuple[str, bool]]:
    """The folders that a command needs, and whether it writes to them."""
    if command == "import":
        return [(asked.workdir, True), (_above(asked.source), False)]
    if command == "export":
        return [(asked.workdir, False), (_above(asked.out), True)]
    return []


def _above(path: str) -> str:
    """The folder that a path in a bucket is in; "" where that is not to be asked."""
    above = path.rpartition("/")[0]
    return above if in_bucket(path) and split(above)[1] else ""


def bring(asked, changes) -> None:
    """import: a foreign checkpoint becomes a work directory."""
    said = importing.bring(asked.format, asked.source, asked.workdir, changes)
    print(f"{said.source} ({said.format}): {said.taken} arrays, by {said.config}")
    print(f"fresh here: {', '.join(said.fresh) or 'nothing'}")
    print(f"left in the file: {told(said.left) or 'nothing'}")
    for note in said.notes:
        print(note)
    print(f"judge it: python -m simclr_jax evaluate --workdir {asked.workdir}")


def told(left: dict[str, int]) -> str:
    """Rules, and how many arrays each is for."""
    return ", ".join(f"{rule} ({n})" if n > 1 else rule for rule, n in left.items())


def take_out(asked, _) -> None:
    """export: a work directory's network in a format that others read."""
    said = exporting.take_out(
        asked.workdir,
        asked.to,
        asked.out,
        asked.part,
        asked.input,
        asked.licence,
    )
    print(f"{said.path}: {said.part} as {said.format}, {said.bytes / 1e6:.1f} MB")
    for line in (said.checked, *said.limits):
        print(line)


def show(*_) -> None:
    """list: what others have published."""
    print(published.table())


COMMANDS = {"import": bring, "export": take_out, "list": show}


if __name__ == "__main__":
    common.run_and_exit(main)
