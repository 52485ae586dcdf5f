"""What BYOL's released code calls its arrays, in Haiku's manner.

A name is `online_params/MODULE/NAME`, or for batch norm's running statistics
`online_state/MODULE/~/mean_ema/average`; the other branch is "target".
"""

import re
from collections.abc import Iterable
from functools import partial

from simclr_jax.zoo.name_map import Naming, Place, listed

KNOWN = ("18", "34", "50", "101", "152", "200")  # depths of ours
STEM = {"conv1": "initial_conv", "bn1": "initial_batchnorm"}
DENSE = {"dense1": "linear", "bn1": "batch_norm", "dense2": "linear_1"}
STATISTICS = {"mean": "mean_ema", "var": "var_ema"}


def root(names: Iterable[str]) -> str:
    """What the encoder is called, such as res_net50.

    Raises:
      ValueError: there is none, or it has a depth that ours do not.
    """
    rule = r"online_params/(res_net(\d+))/~/initial_conv/w"
    found = [m for name in names if (m := re.fullmatch(rule, name))]
    if len(found) != 1 or found[0][2] not in KNOWN:
        depths = ", ".join(f"res_net{depth}" for depth in KNOWN)
        raise ValueError(
            "This holds no BYOL network: there is not one online_params/ENCODER/~/"
            f"initial_conv/w, ENCODER one of {depths}. There are "
            f"{listed(sorted(names))}."
        )
    return found[0][1]


def parts(who: str, root: str) -> dict[str, Naming]:
    """The parts of a branch, "online" or "target", as far as ours has them."""
    heads = ("projector", "predictor") if who == "online" else ("projector",)
    found: dict[str, Naming] = {head: partial(_of_head, who, head) for head in heads}
    found["encoder"] = partial(_of_encoder, who, root)
    return found | ({"probe": _of_probe} if who == "online" else {})


def _of_encoder(who: str, root: str, path: str) -> Place | None:
    found = re.fullmatch(r"(?:layer(\d)_(\d+)/)?(\w+)/(\w+)", path)
    if not found:
        return None
    group, block, layer, leaf = found.groups()
    module = STEM.get(layer, "")
    if group:
        where = f"block_group_{int(group) - 1}/~/block_{block}"
        module = f"{where}/~/{_in_block(layer)}"
    return _place(who, f"{root}/~/{module}", leaf, "pixel")


def _in_block(layer: str) -> str:
    """conv1 -> conv_0, shortcut_bn -> shortcut_batchnorm."""
    layer = layer.replace("bn", "batchnorm")
    return re.sub(r"\d", lambda digit: f"_{int(digit[0]) - 1}", layer)


def _of_head(who: str, head: str, path: str) -> Place | None:
    layer, _, leaf = path.partition("/")
    if layer not in DENSE:
        return None
    if layer.startswith("dense"):
        return _dense(who, f"{head}/{DENSE[layer]}", leaf)
    return _place(who, f"{head}/{DENSE[layer]}", leaf, "row")


def _of_probe(path: str) -> Place:
    return _dense("online", "classifier", path)


def _dense(who: str, module: str, leaf: str) -> Place:
    return Place(f"{who}_params/{module}/{'w' if leaf == 'kernel' else 'b'}")


def _place(who: str, module: str, leaf: str, turn: str) -> Place:
    """Of a kernel, or of a batch norm's vector, which has axes of length 1 there."""
    if leaf == "kernel":
        return Place(f"{who}_params/{module}/w")
    if leaf in STATISTICS:
        name = f"{who}_state/{module}/~/{STATISTICS[leaf]}/average"
        return Place(name, turn)
    name = "offset" if leaf == "bias" else leaf
    return Place(f"{who}_params/{module}/{name}", turn)
