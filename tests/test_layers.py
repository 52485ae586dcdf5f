"""The house rules that a syntax tree can show: who imports whom, and a few bans."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "simclr_jax"

# room: (what it may import of ours beside itself, what of others beside Python's own)
ROOMS = {
    "state": ("", "jax"),
    "sharding": ("", "jax"),
    "resize": ("", "jax"),
    "colour": ("resize", "jax"),
    "losses": ("sharding", "jax"),
    "models": ("sharding", "jax numpy flax"),
    "methods": ("losses models state", "jax"),
    "storage": ("", "etils google requests tensorstore tqdm"),
    "train": (
        "losses.geometry state sharding storage",
        "jax numpy optax orbax etils tensorboardX tqdm",
    ),
    "data": (
        "sharding storage",
        "jax numpy tensorflow tensorflow_datasets etils tqdm",
    ),
    "plan": ("", "jax"),
    "zoo": ("models", "jax numpy tensorflow safetensors orbax etils"),
    "reproduce": ("", ""),
    "evaluate": (
        "models losses state data colour sharding storage train.optim train.schedules",
        "jax numpy optax etils matplotlib sklearn threadpoolctl",
    ),
}

# Doors, and what they share, may import everything; nothing but a door imports a door.
DOORS = {
    *("pretrain", "plan.__main__", "plan.compiler", "evaluate.__main__"),
    *("data.bench", "zoo.__main__", "zoo.importing", "zoo.exporting"),
    *("reproduce.__main__", "reproduce.card"),
    *("config", "door", "processes", "rebatch", "run", "transfer"),
}
DOOR_FUNCTIONS = {("data.pipeline", "preview")}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path):
    """simclr_jax/losses/contrastive.py -> losses.contrastive"""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def within(name, prefixes):
    return any(name == p or name.startswith(p + ".") for p in prefixes)


def imports(tree, name):
    """(line, dotted target) of every import that `name`'s rules apply to."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and (name, node.name) in DOOR_FUNCTIONS:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for alias in node.names:
                inside = ROOT.joinpath(*base.split("."), alias.name)
                if node.level:  # never allowed: full import paths
                    yield node.lineno, f"{'.' * node.level}{base} ({alias.name})"
                elif inside.is_dir() or inside.with_suffix(".py").is_file():
                    yield node.lineno, f"{base}.{alias.name}"
                else:
                    yield node.lineno, base
        else:
            yield from imports(node, name)


def complaints(source, name):
    """What in the module `name` breaks the rules; [] is what we want."""
    room = name.split(".")[0]
    tree = ast.parse(source)
    found = []
    if name not in DOORS:
        if room not in ROOMS:
            return [f"{name}: no such room; add it to the table or move the file"]
        ours, others = (set(allowed.split()) for allowed in ROOMS[room])
        others |= sys.stdlib_module_names
        for line, target in imports(tree, name):
            head, _, tail = target.partition(".")
            if head == "simclr_jax":
                right = within(tail, ours | {room}) and not within(tail, DOORS)
            else:
                right = head in others
            if not right:
                found.append(f"{name}:{line}: {room} may not import {target}")
    return found + bans(tree, name)


def bans(tree, name):
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            found.append(f"{name}:{node.lineno}: assert is for tests; raise ValueError")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            defaulted = len(node.args) + len(node.keywords) > 1
            words = set(ast.unparse(node.func.value).lower().split("."))
            configured = "c" in words or any("config" in word for word in words)
            if node.func.attr == "get" and defaulted and configured:
                found.append(
                    f"{name}:{node.lineno}: a config's .get hides typos; "
                    "give the key its default where it is born"
                )
        if (
            name.startswith("losses.")
            and isinstance(node, ast.Attribute)
            and node.attr == "stop_gradient"
        ):
            found.append(f"{name}:{node.lineno}: who is taught is the method's say")
    return found


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_module_keeps_the_rules(path):
    if path.name == "__init__.py":
        assert path.read_text() == "", "full import paths: every __init__.py is empty"
    else:
        assert complaints(path.read_text(), dotted(path)) == []


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=str)
def test_config_file_keeps_the_bans(path):
    assert bans(ast.parse(path.read_text()), f"configs.{path.stem}") == []


@pytest.mark.parametrize(
    ("name", "source", "word"),
    [
        ("losses.contrastive", "import flax.linen as nn", "flax.linen"),
        ("losses.contrastive", "from simclr_jax.models import resnet", "models"),
        ("losses.contrastive", "y = jax.lax.stop_gradient(z)", "method's say"),
        ("methods.simclr", "import optax", "optax"),
        (
            "methods.simclr",
            "from simclr_jax.experiment.config import section",
            "config",
        ),
        ("methods.simclr", "from simclr_jax import config", "config"),
        ("models.resnet", "def f():\n  import tensorflow as tf", "tensorflow"),
        ("train.loop", "from simclr_jax.methods.simclr import simclr", "methods"),
        ("train.step", "from simclr_jax.losses.contrastive import nt_xent", "losses"),
        ("train.loop", "import tensorflow", "tensorflow"),
        ("data.feed", "def f():\n  from simclr_jax.models import resnet", "models"),
        ("data.pipeline", "import simclr_jax.experiment.config", "config"),
        ("evaluate.features", "import simclr_jax.methods.catalog", "methods"),
        ("evaluate.knn", "import simclr_jax.cli.evaluate", "__main__"),
        ("evaluate.knn", "from simclr_jax.train.loop import run", "train.loop"),
        ("evaluate.knn", "from . import features", "features"),
        ("colour", "from simclr_jax.sharding import DATA", "sharding"),
        ("attic.old", "", "no such room"),
        ("pretrain", "x = config.data.get('name', 'cifar10')", ".get"),
        ("pretrain", "x = c.get('epochs', default=3)", ".get"),
        ("train.loop", "assert step > 0", "assert"),
    ],
)
def test_a_breach_is_seen(name, source, word):
    (said,) = complaints(source, name)
    assert word in said


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("pretrain", "import tensorflow, simclr_jax.methods.catalog"),
        ("data.pipeline", "def preview():\n  from simclr_jax import config, colour"),
        ("losses.contrastive", "from simclr_jax.losses.geometry import normalize"),
        ("train.step", "from simclr_jax.losses import geometry"),
        ("methods.simclr", "from simclr_jax import state"),
        ("pretrain", "x = environ.get('HOME', '')"),
        ("pretrain", "x = config.get('name')"),
    ],
)
def test_what_is_allowed_passes(name, source):
    assert complaints(source, name) == []
