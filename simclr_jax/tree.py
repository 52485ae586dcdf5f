"""Trees of arrays by the slash-separated paths of their leaves."""

from collections.abc import Callable, Mapping
from typing import Any

import jax


def paths(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[str]:
    """The paths of all leaves in order, such as "encoder/conv1/kernel"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
    ]


def by_path(tree: Any) -> dict[str, Any]:
    """{path: leaf} of all leaves, in order."""
    return dict(zip(paths(tree), jax.tree.leaves(tree), strict=True))


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of {path: leaf}: the inverse of `by_path` for nested dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[name] = leaf
    return tree


def same_paths(tree: Any, like: Any) -> dict[str, Any]:
    """The part of nested dicts that has the paths of another tree."""
    leaves = by_path(tree)
    return nested({path: leaves[path] for path in paths(like)})


def with_leaves(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """A copy of the tree whose leaves at these paths are replaced: {path: leaf}."""
    new = [leaves.get(path, leaf) for path, leaf in by_path(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), new)
