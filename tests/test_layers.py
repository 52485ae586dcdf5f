"""The layers of the package and a few bans, checked on the syntax trees."""

import ast
import pathlib
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "simclr_jax"

# package or module: (what it may import of this package beside itself, and of others
# beside the standard library). Each may import earlier entries only: there is no cycle.
LAYERS = {
    "suggest": ("", ""),
    "old_commands": ("", ""),
    "fingerprint": ("", ""),
    "sharding": ("", "jax"),
    "batch": ("", "jax"),
    "state": ("", "jax"),
    "tree": ("", "jax"),
    "multihost": ("", "jax numpy orbax"),
    "storage": ("", "etils google requests tensorstore tqdm"),
    "compilation_cache": ("storage", "jax"),
    "losses": ("sharding", "jax"),
    "models": ("sharding", "jax numpy flax"),
    "methods": ("losses models batch state", "jax"),
    "train": (
        "losses.geometry batch sharding state storage tree",
        "jax numpy optax orbax etils tensorboardX tqdm",
    ),
    "data": (
        "batch old_commands sharding storage suggest",
        "jax numpy tensorflow tensorflow_datasets etils tqdm",
    ),
    "evaluate": (
        "losses models.cpu data batch old_commands sharding storage suggest "
        "train.optim train.schedules",
        "jax numpy optax etils matplotlib pyarrow sklearn threadpoolctl",
    ),
    "zoo": (
        "models fingerprint old_commands storage suggest tree",
        "jax numpy tensorflow safetensors orbax etils",
    ),
    "plan": ("fingerprint old_commands storage", "jax etils"),
    "reproduce": ("fingerprint old_commands", "etils"),
    "experiment": (
        "losses models methods train data evaluate zoo plan reproduce batch "
        "fingerprint multihost sharding state storage suggest tree",
        "etils flax jax ml_collections numpy optax",
    ),
    "cli": (
        "compilation_cache data evaluate.scores zoo plan reproduce experiment "
        "train.checkpoint_errors multihost sharding state storage suggest",
        "etils jax ml_collections tqdm",
    ),
    "__main__": ("cli", ""),
    "__init__": ("experiment", ""),
    "pretrain": ("old_commands", ""),
}
SHARED_BY_COMMANDS = ("cli.common", "cli.runtime", "cli.comparison")


def modules() -> list[pathlib.Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: pathlib.Path) -> str:
    """simclr_jax/losses/contrastive.py -> losses.contrastive"""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def within(name: str, prefixes) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for alias in node.names:
                path = ROOT.joinpath(*base.split("."), alias.name)
                if node.level:  # never allowed: full import paths
                    yield node.lineno, f"{'.' * node.level}{base} ({alias.name})"
                elif path.is_dir() or path.with_suffix(".py").is_file():
                    yield node.lineno, f"{base}.{alias.name}"
                else:
                    yield node.lineno, base


def violations(source: str, name: str) -> list[str]:
    """The rules that the module `name` breaks, a line for each breach."""
    layer = name.split(".")[0]
    if layer not in LAYERS:
        return [f"{name}: {layer} is not in the table of layers"]
    tree = ast.parse(source)
    ours, others = (set(allowed.split()) for allowed in LAYERS[layer])
    lines = []
    for line, target in imports(tree):
        head, _, module = target.partition(".")
        if head == "simclr_jax":
            allowed = within(module, ours | {layer})
            if layer == "cli" and within(module, ["cli"]):
                allowed = module in SHARED_BY_COMMANDS
        else:
            allowed = head in others | sys.stdlib_module_names
        if (layer, head) == ("experiment", "argparse") or (
            layer == "cli" and within(target, ["jax.numpy", "jax.lax"])
        ):
            allowed = False
        if not allowed:
            lines.append(f"{name}:{line}: {layer} must not import {target}")
    return lines + bans(tree, name)


def bans(tree: ast.AST, name: str) -> list[str]:
    """Uses of assert, of a config's .get, and others that a layer must not have."""
    lines = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Assert):
            lines.append(f"{name}:{line}: assert is for tests; raise ValueError")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            has_default = len(node.args) + len(node.keywords) > 1
            parts = set(ast.unparse(node.func.value).lower().split("."))
            of_config = "c" in parts or any("config" in part for part in parts)
            if node.func.attr == "get" and has_default and of_config:
                lines.append(
                    f"{name}:{line}: a config's .get hides misspelt keys; "
                    "define the default where the key is defined"
                )
        if name.startswith("losses.") and _attribute(node) == "stop_gradient":
            lines.append(f"{name}:{line}: stop_gradient belongs to the method")
        if name.startswith("experiment.") and _called(node) == "print":
            lines.append(f"{name}:{line}: only cli prints")
    return lines


def _attribute(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else ""


def _called(node: ast.AST) -> str:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id
    return ""


def test_the_table_has_no_cycle():
    """Each entry imports earlier ones only."""
    earlier: set[str] = set()
    for layer, (ours, _) in LAYERS.items():
        assert {name.split(".")[0] for name in ours.split()} <= earlier, layer
        earlier.add(layer)


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_module_keeps_the_rules(path):
    if path.name == "__init__.py" and path.parent != PACKAGE:
        assert path.read_text() == "", "full import paths: __init__.py is empty"
    else:
        assert violations(path.read_text(), dotted(path)) == []


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=str)
def test_config_file_keeps_the_bans(path):
    assert bans(ast.parse(path.read_text()), f"configs.{path.stem}") == []


@pytest.mark.parametrize(
    ("name", "source", "text"),
    [
        ("losses.contrastive", "import flax.linen as nn", "flax.linen"),
        ("losses.contrastive", "from simclr_jax.models import resnet", "models"),
        ("losses.contrastive", "y = jax.lax.stop_gradient(z)", "the method"),
        ("methods.simclr", "import optax", "optax"),
        ("methods.simclr", "from simclr_jax.experiment.schema import call", "schema"),
        ("methods.simclr", "from simclr_jax.experiment import config", "config"),
        ("models.resnet", "def f():\n  import tensorflow as tf", "tensorflow"),
        ("train.loop", "from simclr_jax.methods.simclr import simclr", "methods"),
        ("train.step", "from simclr_jax.losses.contrastive import nt_xent", "losses"),
        ("train.loop", "import tensorflow", "tensorflow"),
        ("data.prefetch", "def f():\n  from simclr_jax.models import vit", "models"),
        ("data.pipeline", "import simclr_jax.experiment.config", "config"),
        ("evaluate.features", "import simclr_jax.methods.catalog", "methods"),
        ("evaluate.knn", "import simclr_jax.cli.evaluate", "cli.evaluate"),
        ("evaluate.knn", "from simclr_jax.train.loop import run", "train.loop"),
        ("evaluate.knn", "from . import features", "features"),
        ("plan.compiler", "from simclr_jax.data import sources", "data"),
        ("experiment.training", "from simclr_jax.cli import common", "cli.common"),
        ("experiment.training", "import argparse", "argparse"),
        ("experiment.training", "print(1)", "only cli prints"),
        ("cli.plan", "from simclr_jax.cli import data_bench", "data_bench"),
        ("cli.evaluate", "import jax.numpy as jnp", "jax.numpy"),
        ("batch", "from simclr_jax.sharding import DATA", "sharding"),
        ("attic.old", "", "not in the table"),
        ("cli.pretrain", "x = config.data.get('name', 'cifar10')", ".get"),
        ("cli.pretrain", "x = c.get('epochs', default=3)", ".get"),
        ("train.loop", "assert step > 0", "assert"),
    ],
)
def test_a_violation_is_reported(name, source, text):
    (line,) = violations(source, name)
    assert text in line


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("cli.pretrain", "from simclr_jax.experiment import training"),
        ("cli.pretrain", "from simclr_jax.cli import common"),
        ("experiment.build", "from simclr_jax.methods.catalog import METHODS"),
        ("losses.contrastive", "from simclr_jax.losses.geometry import normalize"),
        ("train.step", "from simclr_jax.losses import geometry"),
        ("methods.simclr", "from simclr_jax import state"),
        ("cli.pretrain", "x = environ.get('HOME', '')"),
        ("cli.pretrain", "x = config.get('name')"),
    ],
)
def test_allowed_code_passes(name, source):
    assert violations(source, name) == []
