"""The names that Haiku gives to the arrays of BYOL's released code.

A name is `online_params/MODULE/NAME`, or for batch norm's running statistics
`online_state/MODULE/~/mean_ema/average`; for the target, "target" replaces "online".
"""

import re
from collections.abc import Iterable
from functools import partial

from simclr_jax.zoo.name_map import Entry, Naming, abbreviate

DEPTHS = ("18", "34", "50", "101", "152", "200")  # of our ResNets
STEM = {"conv1": "initial_conv", "bn1": "initial_batchnorm"}
HEAD = {"dense1": "linear", "bn1": "batch_norm", "dense2": "linear_1"}
STATISTICS = {"mean": "mean_ema", "var": "var_ema"}


def encoder_name(names: Iterable[str]) -> str:
    """The name of the encoder's module, such as res_net50.

    Raises:
      ValueError: there is none, or its depth is not one of ours.
    """
    rule = r"online_params/(res_net(\d+))/~/initial_conv/w"
    matches = [m for name in names if (m := re.fullmatch(rule, name))]
    if len(matches) != 1 or matches[0][2] not in DEPTHS:
        depths = ", ".join(f"res_net{depth}" for depth in DEPTHS)
        raise ValueError(
            "This file has no BYOL network: it needs exactly one array online_params/"
            f"ENCODER/~/initial_conv/w, with ENCODER one of {depths}. It has "
            f"{abbreviate(sorted(names))}."
        )
    return matches[0][1]


def parts(branch: str, root: str) -> dict[str, Naming]:
    """The naming of each part of a branch.

    Args:
      branch: "online" or "target".
      root: see `encoder_name`.
    """
    namings: dict[str, Naming] = {
        "encoder": partial(_encoder, branch, root),
        "projector": partial(_head, branch, "projector"),
    }
    if branch == "online":
        namings["predictor"] = partial(_head, branch, "predictor")
        namings["probe"] = _probe
    return namings


def _encoder(branch: str, root: str, path: str) -> Entry | None:
    match = re.fullmatch(r"(?:layer(\d)_(\d+)/)?(\w+)/(\w+)", path)
    if not match:
        return None
    group, block, layer, leaf = match.groups()
    module = STEM.get(layer, "")
    if group:
        prefix = f"block_group_{int(group) - 1}/~/block_{block}"
        module = f"{prefix}/~/{_layer_in_block(layer)}"
    return _entry(branch, f"{root}/~/{module}", leaf, "pixel")


def _layer_in_block(layer: str) -> str:
    """conv1 -> conv_0, shortcut_bn -> shortcut_batchnorm."""
    layer = layer.replace("bn", "batchnorm")
    return re.sub(r"\d", lambda digit: f"_{int(digit[0]) - 1}", layer)


def _head(branch: str, head: str, path: str) -> Entry | None:
    layer, _, leaf = path.partition("/")
    if layer not in HEAD:
        return None
    if layer.startswith("dense"):
        return _dense(branch, f"{head}/{HEAD[layer]}", leaf)
    return _entry(branch, f"{head}/{HEAD[layer]}", leaf, "row")


def _probe(path: str) -> Entry:
    return _dense("online", "classifier", path)


def _dense(branch: str, module: str, leaf: str) -> Entry:
    return Entry(f"{branch}_params/{module}/{'w' if leaf == 'kernel' else 'b'}")


def _entry(branch: str, module: str, leaf: str, transform: str) -> Entry:
    """A kernel, or a batch norm's vector, which has extra axes of length 1."""
    if leaf == "kernel":
        return Entry(f"{branch}_params/{module}/w")
    if leaf in STATISTICS:
        name = f"{branch}_state/{module}/~/{STATISTICS[leaf]}/average"
        return Entry(name, transform)
    name = "offset" if leaf == "bias" else leaf
    return Entry(f"{branch}_params/{module}/{name}", transform)
