"""The names of layers in PyTorch's libraries, read both ways."""

import jax
import numpy as np
import pytest

from simclr_jax.models.catalog import ENCODERS
from simclr_jax.tree import by_path
from simclr_jax.zoo import name_map
from simclr_jax.zoo.name_map import Branch, Found
from simclr_jax.zoo.torch import names as torch_names
from tests.zoo.taking import difference

TORCH = {"pool": "torch", "shortcut": "needed"}
RESNETS = {
    "torchvision": torch_names.resnet,
    "t-SimCNE": torch_names.tsimcne_resnet,
    "lightly": torch_names.sequential_resnet,
}
VITS = {
    "timm": torch_names.vit,
    "torchvision": torch_names.torchvision_vit,
}


def shapes(encoder, size=32):
    """{"params/encoder/conv1/kernel": shape, ...}, as a state has them."""
    x = np.zeros((1, size, size, 3), np.uint8)
    said = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, False))
    said = by_path(dict(said))
    roots = {"params": "params/encoder", "batch_stats": "model_state/online/encoder"}
    return {
        f"{roots[path.partition('/')[0]]}/{path.partition('/')[2]}": x.shape
        for path, x in said.items()
    }


def table(naming, sizes):
    branch = Branch("params", "model_state/online", {"encoder": naming})
    return name_map.table(Found("", [], {}, [branch]), sizes)


CASES = [
    *(("resnet18", name, naming) for name, naming in RESNETS.items()),
    *(("resnet50", name, naming) for name, naming in RESNETS.items()),
    *(("vit_mini", name, naming) for name, naming in VITS.items()),
]


@pytest.mark.parametrize(("encoder", "library", "naming"), CASES)
def test_there_and_back(encoder, library, naming):
    """Every array has a place of its own, and comes back as it went."""
    if encoder.startswith("resnet"):
        sizes = shapes(ENCODERS[encoder](**TORCH).clone(channels=4))
    else:
        sizes = shapes(ENCODERS[encoder]())
    places = table(naming, sizes)
    names = [place.name for place in places.values()]
    assert len(set(names)) == len(names)
    draw = np.random.default_rng(0)
    ours = {path: draw.normal(size=size) for path, size in sizes.items()}
    back = name_map.take(places, name_map.give(places, ours), sizes)
    assert back.keys() == ours.keys()
    for path, x in ours.items():
        np.testing.assert_array_equal(back[path], x)


@pytest.mark.parametrize(
    ("naming", "path", "name", "turn"),
    [
        ("resnet", "conv1/kernel", "conv1.weight", "conv"),
        ("resnet", "bn1/var", "bn1.running_var", "same"),
        ("resnet", "layer3_5/bn3/scale", "layer3.5.bn3.weight", "same"),
        (
            "resnet",
            "layer1_0/shortcut_conv/kernel",
            "layer1.0.downsample.0.weight",
            "conv",
        ),
        (
            "tsimcne_resnet",
            "layer2_0/shortcut_bn/mean",
            "layer2.0.shortcut.1.running_mean",
            "same",
        ),
        ("sequential_resnet", "bn1/bias", "1.bias", "same"),
        ("sequential_resnet", "layer4_1/conv2/kernel", "7.1.conv2.weight", "conv"),
        ("vit", "patch/kernel", "patch_embed.proj.weight", "conv"),
        ("vit", "positions", "pos_embed", "same"),
        ("vit", "block11/mlp/dense2/bias", "blocks.11.mlp.fc2.bias", "same"),
        (
            "torchvision_vit",
            "block0/attention/qkv/bias",
            "encoder.layers.encoder_layer_0.self_attention.in_proj_bias",
            "same",
        ),
        ("torchvision_vit", "norm/scale", "encoder.ln.weight", "same"),
        ("linear", "kernel", "weight", "dense"),
        ("prototypes", "g", "weight_g", "column"),
    ],
)
def test_published_names(naming, path, name, turn):
    place = getattr(torch_names, naming)(path)
    assert place == name_map.Place(name, turn)


def test_heads():
    naming = torch_names.under(
        "fc.", torch_names.mlp({"dense1": 0, "bn1": 1, "dense2": "last"})
    )
    assert naming("bn1/mean").name == "fc.1.running_mean"
    assert naming("dense2/kernel") == name_map.Place("fc.last.weight", "dense")
    assert naming("dense3/kernel") is None
    assert torch_names.NORMED["dense3"] == 6
    assert torch_names.NORMED["bn3"] == 7
    assert torch_names.BARE["dense3"] == 4


@pytest.mark.parametrize(
    ("naming", "path"),
    [
        ("resnet", "conv2/kernel"),  # the stem of ResNet-D
        ("resnet", "layer1_0/squeeze_conv/kernel"),
        ("resnet", "layer5_0/conv1/kernel"),
        ("resnet", "layer1_0/conv1/slope"),
        ("resnet", "block0/norm1/scale"),
        ("vit", "block0/patch/kernel"),
        ("vit", "norm1/scale"),
        ("vit", "block0/attention/qkv"),
        ("linear", "dense1/kernel"),
        ("prototypes", "kernel"),
    ],
)
def test_what_is_not_there_has_no_name(naming, path):
    assert getattr(torch_names, naming)(path) is None


# Strictness: nothing is skipped in silence.


@pytest.fixture(scope="module")
def mini():
    sizes = shapes(ENCODERS["vit_mini"]())
    places = table(torch_names.vit, sizes)
    draw = np.random.default_rng(0)
    ours = {path: draw.normal(size=size) for path, size in sizes.items()}
    return places, sizes, name_map.give(places, ours)


def test_a_missing_array_is_named(mini):
    places, sizes, arrays = mini
    short = {name: x for name, x in arrays.items() if name != "blocks.2.norm1.weight"}
    with pytest.raises(ValueError, match=r"Missing: blocks\.2\.norm1\.weight\. Not"):
        name_map.take(places, short, sizes)


def test_a_surplus_array_is_named_unless_it_is_spare(mini):
    places, sizes, arrays = mini
    more = arrays | {"blocks.0.ls1.gamma": np.ones(128)}
    with pytest.raises(ValueError, match=r"Not expected: blocks\.0\.ls1\.gamma"):
        name_map.take(places, more, sizes)
    assert name_map.take(places, more, sizes, [r"blocks\.\d+\.ls1\.gamma"])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("blocks.1.mlp.fc1.weight", lambda x: x.T),
        ("patch_embed.proj.weight", lambda x: x.transpose(2, 3, 1, 0)),
        ("pos_embed", lambda x: x[:, 1:]),
        ("norm.bias", lambda x: x[:, None]),
        ("patch_embed.proj.weight", lambda x: x.reshape(len(x), -1)),
    ],
)
def test_a_misshapen_array_is_named(mini, name, change):
    places, sizes, arrays = mini
    with pytest.raises(ValueError, match=rf"other shapes: {name.replace('.', '[.]')} "):
        name_map.take(places, arrays | {name: change(arrays[name])}, sizes)


def test_no_array_at_all_is_an_error(mini):
    places, sizes, _ = mini
    with pytest.raises(ValueError, match=r"Missing: .* and \d+ more"):
        name_map.take(places, {}, sizes)


# Beside the libraries themselves.


def encoded(encoder, naming, arrays, images):
    """h of our encoder with these arrays."""
    sizes = shapes(encoder, images.shape[1])
    taken = name_map.take(
        table(naming, sizes),
        arrays,
        sizes,
        [r".*num_batches_tracked", r"(fc|heads?)\..*"],
    )
    variables = {"params": {}, "batch_stats": {}}
    for path, x in taken.items():
        kind = "params" if path.startswith("params/") else "batch_stats"
        *parents, leaf = path.partition("/encoder/")[2].split("/")
        place = variables[kind]
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = x
    return jax.jit(encoder.apply, static_argnums=2)(variables, images, False)


def numpy(net):
    return {name: x.numpy() for name, x in net.state_dict().items()}


@pytest.mark.zoo
@pytest.mark.parametrize("library", ["torchvision", "timm", "lightly"])
def test_resnets_of_the_libraries(library):
    import torch

    from tests.zoo import torch_twins as twins

    naming = RESNETS.get(library, torch_names.resnet)
    if library == "timm":
        net = twins.timm.create_model("resnet18", num_classes=0)
    else:
        net = twins.headless(18)
        net = twins.sequential(net) if library == "lightly" else net
    arrays = numpy(twins.shaken(net))
    images = twins.pictures(64)
    with torch.no_grad():
        h = net(twins.normalised(images))
    encoder = ENCODERS["resnet18"](**TORCH, mean=twins.MEAN, std=twins.STD)
    ours = encoded(encoder, naming, arrays, images)
    assert difference(ours, h.reshape(2, -1)) < 1e-5


@pytest.mark.zoo
@pytest.mark.parametrize("library", VITS)
def test_vits_of_the_libraries(library):
    import torch

    from tests.zoo import torch_twins as twins

    if library == "timm":
        net = twins.vit(128, 4, 4, patch=4, size=32)
    else:
        net = twins.torchvision.models.VisionTransformer(32, 4, 4, 4, 128, 512)
        net.heads = torch.nn.Identity()
    arrays = numpy(twins.shaken(net))
    images = twins.pictures(32)
    with torch.no_grad():
        h = net(twins.normalised(images))
    encoder = ENCODERS["vit_mini"](mean=twins.MEAN, std=twins.STD)
    assert difference(encoded(encoder, VITS[library], arrays, images), h) < 1e-5
