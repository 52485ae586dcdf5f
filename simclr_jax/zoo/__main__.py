"""The zoo's door: weights in, weights out.

python -m simclr_jax.zoo import --from FORMAT --source PATH --workdir DIR
    [--config.KEY=value ...]
python -m simclr_jax.zoo export --workdir DIR --to FORMAT --out PATH
    [--part encoder|encoder+head|encoder+classifier] [--input float|uint8|normalised]
python -m simclr_jax.zoo list
"""

import os

from simclr_jax import config, door
from simclr_jax.zoo import exporting, importing, published
from simclr_jax.zoo.formats import FORMATS
from simclr_jax.zoo.network import INPUTS, PARTS


def main(argv: list[str]) -> None:
    """Does as the command line says; see door.leave for the exit codes."""
    command, words = argv[:1], argv[1:]
    with door.checking():
        if not command or command[0] in ("-h", "--help"):
            print(__doc__)
            return
        config.choose(command[0], COMMANDS, "simclr_jax.zoo")
    COMMANDS[command[0]](words)


def bring(argv: list[str]) -> None:
    """import: a foreign checkpoint becomes a work directory."""
    words = door.Parser(prog="simclr_jax.zoo import", description=__doc__)
    words.add_argument("--from", dest="format", required=True, help=", ".join(FORMATS))
    words.add_argument("--source", required=True, help="a file, folder or prefix")
    words.add_argument("--workdir", required=True)
    arguments, changes = words.parse_with_changes(argv)
    workdir = os.path.expanduser(arguments.workdir)
    source = os.path.expanduser(arguments.source)
    with door.checking():
        said = importing.bring(arguments.format, source, workdir, changes)
    print(f"{said.source} ({said.format}): {said.taken} arrays, by {said.config}")
    print(f"fresh here: {', '.join(said.fresh) or 'nothing'}")
    for note in said.notes:
        print(note)
    print(f"{workdir}: judge it with python -m simclr_jax.evaluate --workdir {workdir}")


def show(argv: list[str]) -> None:
    """list: what others have published."""
    words = door.Parser(prog="simclr_jax.zoo list", description=__doc__)
    words.parse_with_changes(argv)
    print(published.table())


def take_out(argv: list[str]) -> None:
    """export: a work directory's network in a format that others read."""
    words = door.Parser(prog="simclr_jax.zoo export", description=__doc__)
    words.add_argument("--workdir", required=True)
    words.add_argument("--to", required=True, help=", ".join(exporting.WRITERS))
    words.add_argument("--out", required=True, help="a file or folder, a new one")
    words.add_argument("--part", default="encoder", help=", ".join(PARTS))
    words.add_argument("--input", default="", help=", ".join(INPUTS))
    asked, changes = words.parse_with_changes(argv)
    if changes:
        words.error("export takes the run as it is: no --config.KEY=VALUE.")
    workdir, out = map(os.path.expanduser, (asked.workdir, asked.out))
    with door.checking():
        said = exporting.take_out(workdir, asked.to, out, asked.part, asked.input)
    print(f"{said.path}: {said.part} as {said.format}, {said.bytes / 1e6:.1f} MB")
    for line in (said.checked, *said.limits):
        print(line)


COMMANDS = {"import": bring, "export": take_out, "list": show}


if __name__ == "__main__":
    door.leave(main)
