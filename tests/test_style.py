"""Names, annotations and sizes of the project's code, read from its syntax trees."""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("simclr_jax", "configs", "tests")
FILES = sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))
PACKAGE = [path for path in FILES if path.is_relative_to(ROOT / "simclr_jax")]

# Names that say nothing of the thing; the field's terms are used instead.
OLD_NAMES = {
    *("about", "again", "anybody", "begun", "box", "bring", "chosen", "door", "doors"),
    *("each", "fated", "found", "fresh", "given", "held", "house", "judge", "judged"),
    *("known", "lay", "leave", "manner", "mine", "mistake", "of", "own"),
    *("place", "places", "room", "rooms", "said", "spot", "stays", "take_out", "taken"),
    *("telling", "theirs", "told", "tongue", "turn", "wanted", "whose", "words"),
}
# Modules of which only the former names are old.
OLD_MODULES = {
    *("arithmetic", "colour", "feed", "layout", "maps", "order", "paint", "processes"),
    *("reading", "rebatch", "resize", "run", "runtimes", "siamese", "streaming"),
    *("torch_shapes", "torch_siamese", "transfer", "whole", "windows"),
}
ANNOTATED = 0.95  # of the parameters of public functions
LONGEST_FILE = 300  # lines


def bound_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of every function, class, argument, field and module constant."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg
        if isinstance(node, ast.ClassDef | ast.Module):
            for statement in node.body:
                yield from _assigned(statement)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def _assigned(statement: ast.stmt) -> Iterator[tuple[int, str]]:
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    for target in targets:
        for node in ast.walk(target) if target is not None else ():
            if isinstance(node, ast.Name):
                yield node.lineno, node.id


def old_names(source: str) -> list[str]:
    """ "LINE: NAME" of the old names that a module binds."""
    return [
        f"{line}: {name}"
        for line, name in bound_names(ast.parse(source))
        if name.lower().strip("_") in OLD_NAMES
    ]


def parameters(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """(function.parameter, whether it is annotated) of all public functions."""
    for function in public_functions(tree):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named += filter(None, (arguments.vararg, arguments.kwarg))
        for argument in named:
            if argument.arg not in ("self", "cls"):
                name = f"{function.name}.{argument.arg}"
                yield name, argument.annotation is not None


def public_functions(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if node.name.startswith("_") and node.name != "__call__":
                continue
            if isinstance(node, ast.ClassDef):
                yield from public_functions(node)
            else:
                yield node


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_old_names(path):
    assert old_names(path.read_text()) == []
    assert path.stem.removeprefix("test_") not in OLD_NAMES | OLD_MODULES


def test_old_names_are_noticed():
    source = (
        "def f(said, x):\n    pass\nclass Box:\n    told: int\n    def turn(self): 0\n"
    )
    assert sorted(old_names(source)) == ["1: said", "3: Box", "4: told", "5: turn"]


def test_parameters_of_public_functions_are_annotated():
    marks, missing = [], []
    for path in PACKAGE:
        for name, annotated in parameters(ast.parse(path.read_text())):
            marks.append(annotated)
            if not annotated:
                missing.append(f"{path.relative_to(ROOT)}: {name}")
    share = sum(marks) / len(marks)
    assert share >= ANNOTATED, f"{share:.1%} of {len(marks)}; without: {missing}"


def test_annotations_are_counted():
    tree = ast.parse(
        "def f(a, b: int, *, c): 0\ndef _g(d): 0\nclass A:\n  def m(self, e): 0"
    )
    assert list(parameters(tree)) == [
        ("f.a", False),
        ("f.b", True),
        ("f.c", False),
        ("m.e", False),
    ]


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGE}
    assert {str(p): n for p, n in lengths.items() if n > LONGEST_FILE} == {}
