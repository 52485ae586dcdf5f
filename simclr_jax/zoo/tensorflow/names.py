"""The names of variables in SimCLR's released code, in each type of TensorFlow file.

All of them follow the order in which the code creates its layers; `layers` is that
order, in our names.
"""

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from simclr_jax.models.resnet import BLOCKS, BOTTLENECK
from simclr_jax.zoo.name_map import Entry, Naming, abbreviate

BASIC = (("conv1", "bn1"), ("conv2", "bn2"))
PLAIN = (*BASIC, ("conv3", "bn3"))
SELECT = (("squeeze_conv", "squeeze_bn"), ("excite_conv", ""))
NORM = {
    "scale": "gamma",
    "bias": "beta",
    "mean": "moving_mean",
    "var": "moving_variance",
}

Pair = tuple[str, str]  # a convolution or Dense, and its batch norm or ""


class Trunk(NamedTuple):
    """The settings of a ResNet that determine its layers."""

    depth: int
    sk: bool
    stem: str  # "imagenet" or "cifar"


TRUNKS = [
    Trunk(depth, sk, stem)
    for depth in BLOCKS
    if depth > 10
    for sk in ((False, True) if depth >= BOTTLENECK else (False,))
    for stem in ("imagenet", "cifar")
]


def layers(trunk: Trunk) -> Iterator[Pair]:
    """Our layers, in the order in which the released code creates them."""
    for i in range(1, 2 + 2 * _three(trunk)):
        yield f"conv{i}", f"bn{i}"
    in_block = PLAIN if trunk.depth >= BOTTLENECK else BASIC
    if trunk.sk:
        in_block = (*BASIC, *SELECT, PLAIN[-1])
    for g, b in _blocks(trunk):
        block = f"layer{g + 1}_{b}"
        if b == 0:
            yield f"{block}/shortcut_conv", f"{block}/shortcut_bn"
        for conv, norm in in_block:
            yield f"{block}/{conv}", norm and f"{block}/{norm}"


def _three(trunk: Trunk) -> bool:
    """Whether the stem has three convolutions (ResNet-D)."""
    return trunk.sk and trunk.stem == "imagenet"


def _blocks(trunk: Trunk) -> Iterator[tuple[int, int]]:
    for g, blocks in enumerate(BLOCKS[trunk.depth]):
        yield from ((g, b) for b in range(blocks))


class Scheme(NamedTuple):
    """The names of a type of file, and regular expressions that recognise them."""

    kernel: str  # expression: a kernel of the trunk
    scale: str  # expression: a batch norm's scale in the trunk
    trunk: Callable[[Trunk], Iterator[Pair]]  # the names of its `layers`
    head: str  # expression: a variable of the head, with the layer's number as group
    dense: str  # name of a head's layer by number, for str.format
    norm: str  # name of its batch norm
    classifier: str  # name of the classifier


def numbered(trunk: Trunk) -> Iterator[Pair]:
    """TF1's names: convolutions and batch norms are numbered separately."""
    convs, norms = itertools.count(), itertools.count()
    for _, norm in layers(trunk):
        yield (
            f"base_model/{_nth('conv2d', next(convs))}",
            norm and f"base_model/{_nth('batch_normalization', next(norms))}",
        )


def _nth(name: str, k: int) -> str:
    return f"{name}_{k}" if k else name


def objects(trunk: Trunk) -> Iterator[Pair]:
    """TF2's checkpoint paths: the index of a layer in the lists that contain it."""
    root = "model/resnet_model"
    # The missing indices are layers without variables: pooling, padding, dropout.
    for i, j in ((0, 1), (2, 3), (4, 6)) if _three(trunk) else ((0, 2),):
        stem = f"{root}/initial_conv_relu_max_pool"
        yield f"{stem}/{i}/conv2d", f"{stem}/{j}/bn"
    for g, b in _blocks(trunk):
        block = f"{root}/block_groups/{g}/layers/{b}"
        deep = trunk.depth >= BOTTLENECK
        if b == 0:
            shortcut = f"{block}/{'projection' if deep else 'shortcut'}_layers"
            i = (2 if g else 1) if trunk.sk else 0
            yield f"{shortcut}/{i}/conv2d", f"{shortcut}/{i + 1}/bn"
        yield from _main(trunk, block)


def _main(trunk: Trunk, block: str) -> Iterator[Pair]:
    if trunk.depth < BOTTLENECK:
        main = f"{block}/conv2d_bn_layers"
        yield from ((f"{main}/{i}/conv2d", f"{main}/{i + 1}/bn") for i in (0, 2))
        return
    main = f"{block}/conv_relu_dropblock_layers"
    yield f"{main}/0/conv2d", f"{main}/1/bn"
    if trunk.sk:
        yield f"{main}/3/conv2d_fixed_padding/conv2d", f"{main}/3/batch_norm_relu/bn"
        yield f"{main}/3/conv2d_0", f"{main}/3/batch_norm_relu_1/bn"
        yield f"{main}/3/conv2d_1", ""
    else:
        yield f"{main}/3/conv2d", f"{main}/4/bn"
    last = 5 if trunk.sk else 6
    yield f"{main}/{last}/conv2d", f"{main}/{last + 1}/bn"


VARIABLES = Scheme(
    r"base_model/conv2d(_\d+)?/kernel",
    r"base_model/batch_normalization(_\d+)?/gamma",
    numbered,
    r"head_contrastive/nl_(\d+)/.*",
    "head_contrastive/nl_{}/dense",
    "head_contrastive/nl_{}/batch_normalization",
    "head_supervised/linear_layer/dense",
)
OBJECTS = Scheme(
    r"model/resnet_model/.*/conv2d\w*/kernel",
    r"model/resnet_model/.*/bn/gamma",
    objects,
    r"model/_projection_head/linear_layers/(\d+)/.*",
    "model/_projection_head/linear_layers/{}/dense",
    "model/_projection_head/linear_layers/{}/bn_relu/bn",
    "model/supervised_head/linear_layer/dense",
)

# In a SavedModel, layers are numbered in the order in which the process created them,
# starting at an unknown number. Groups: the layer's number and the variable's name.
TRUNK_LAYERS = (
    (r"resnet\w*/(?:.*/)?conv2d(?:_(\d+))?/(\w+)", "conv2d"),
    (
        r"resnet\w*/(?:.*/)?(?:sync_)?batch_normalization(?:_(\d+))?/(\w+)",
        "batch_normalization",
    ),
)
HEAD_LAYERS = (  # expression, TF1's names of the head and of the layer
    (r"projection_head\w*/(nl_\d+)/dense\w*/(\w+)", "head_contrastive", "dense"),
    (
        r"projection_head\w*/(nl_\d+)/.*batch_normalization\w*/(\w+)",
        "head_contrastive",
        "batch_normalization",
    ),
    (
        r"head_supervised\w*/(linear_layer)\w*/dense\w*/(\w+)",
        "head_supervised",
        "dense",
    ),
)


def tf1_names(names: Collection[str]) -> dict[str, str]:
    """{TF1's name: name in the SavedModel} of a SavedModel's variables."""
    table = {}
    for rule, layer in TRUNK_LAYERS:
        matches = {name: m for name in names if (m := re.fullmatch(rule, name))}
        numbers = sorted({int(m[1] or 0) for m in matches.values()})
        rank = {number: k for k, number in enumerate(numbers)}
        for name, m in matches.items():
            table[f"base_model/{_nth(layer, rank[int(m[1] or 0)])}/{m[2]}"] = name
    for rule, head, layer in HEAD_LAYERS:
        for name in names:
            if m := re.fullmatch(rule, name):
                table[f"{head}/{m[1]}/{layer}/{m[2]}"] = name
    return table


def recognise(scheme: Scheme, shapes: dict[str, tuple[int, ...]]) -> tuple[Trunk, int]:
    """The trunk with the most similar number of layers, and its width.

    Args:
      shapes: by name in the scheme.

    Raises:
      ValueError: there is no first convolution.
    """
    count = [_count(scheme.kernel, shapes), _count(scheme.scale, shapes)]

    def distance(trunk: Trunk) -> int:
        pairs = list(layers(trunk))
        norms = sum(bool(norm) for _, norm in pairs)
        return abs(count[0] - len(pairs)) + abs(count[1] - norms)

    first = f"{next(scheme.trunk(TRUNKS[0]))[0]}/kernel"
    if len(shapes.get(first, ())) != 4:
        raise ValueError(
            f"This file has no SimCLR network: no kernel {first} [K, K, 3, O]. It has "
            f"{abbreviate(sorted(shapes))}."
        )
    size, _, _, out = shapes[first]
    # Two plain networks with different stems have the same number of layers.
    stem = "imagenet" if size == 7 else "cifar"
    trunk = min(TRUNKS, key=lambda t: (distance(t), t.stem != stem))
    return trunk, max(out // (32 if _three(trunk) else 64), 1)


def _count(rule: str, names: Iterable[str]) -> int:
    return sum(bool(re.fullmatch(rule, name)) for name in names)


def trunk_table(scheme: Scheme, trunk: Trunk) -> dict[str, str]:
    """{path inside our encoder: name}."""
    pairs = zip(layers(trunk), scheme.trunk(trunk), strict=True)
    return _table((*ours, *names) for ours, names in pairs)


def head_table(scheme: Scheme, count: int) -> dict[str, str]:
    """{path inside our projector: name}, for a number of layers."""
    return _table(
        (f"dense{j + 1}", f"bn{j + 1}", scheme.dense.format(j), scheme.norm.format(j))
        for j in range(count)
    )


def classifier_table(scheme: Scheme) -> dict[str, str]:
    """{path inside our probe: name}."""
    return {leaf: f"{scheme.classifier}/{leaf}" for leaf in ("kernel", "bias")}


def head_layers(scheme: Scheme, names: Iterable[str]) -> int:
    """How many layers the projection head has; 0: there is none."""
    matches = (re.fullmatch(scheme.head, name) for name in names)
    return max((int(m[1]) + 1 for m in matches if m), default=0)


def _table(layers: Iterable[tuple[str, str, str, str]]) -> dict[str, str]:
    table = {}
    for kernel, norm, kernel_name, norm_name in layers:
        table[f"{kernel}/kernel"] = f"{kernel_name}/kernel"
        if norm:
            table |= {f"{norm}/{k}": f"{norm_name}/{v}" for k, v in NORM.items()}
    return table


def naming(table: dict[str, str]) -> Naming:
    """The naming of a table; TensorFlow's arrays have the same axes as ours."""
    return {path: Entry(name) for path, name in table.items()}.get
