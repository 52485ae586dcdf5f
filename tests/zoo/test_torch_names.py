"""The names of layers in PyTorch's libraries, in both directions."""

import jax
import numpy as np
import pytest

from simclr_jax.models.catalog import ENCODERS
from simclr_jax.tree import by_path, nested
from simclr_jax.zoo import name_map
from simclr_jax.zoo.name_map import Branch, ForeignCheckpoint
from simclr_jax.zoo.torch import names as torch_names
from tests.zoo.workdirs import relative_difference

TORCH = {"pool_padding": "torch", "shortcut": "needed"}
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
    """{"params/encoder/conv1/kernel": shape, ...} of a state with this encoder."""
    x = np.zeros((1, size, size, 3), np.uint8)
    tree = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, False))
    roots = {"params": "params/encoder", "batch_stats": "model_state/online/encoder"}
    return {
        f"{roots[path.partition('/')[0]]}/{path.partition('/')[2]}": x.shape
        for path, x in by_path(dict(tree)).items()
    }


def entries_of(naming, sizes):
    branch = Branch("params", "model_state/online", {"encoder": naming})
    return name_map.build(ForeignCheckpoint("", [], {}, [branch]), sizes)


CASES = [
    *(("resnet18", name, naming) for name, naming in RESNETS.items()),
    *(("resnet50", name, naming) for name, naming in RESNETS.items()),
    *(("vit_mini", name, naming) for name, naming in VITS.items()),
]


@pytest.mark.parametrize(("encoder", "library", "naming"), CASES)
def test_every_array_is_the_same_after_a_round_trip(encoder, library, naming):
    if encoder.startswith("resnet"):
        sizes = shapes(ENCODERS[encoder](**TORCH).clone(channels=4))
    else:
        sizes = shapes(ENCODERS[encoder]())
    entries = entries_of(naming, sizes)
    names = [entry.name for entry in entries.values()]
    assert len(set(names)) == len(names)
    draw = np.random.default_rng(0)
    ours = {path: draw.normal(size=size) for path, size in sizes.items()}
    foreign = name_map.from_flax(entries, ours)
    back = name_map.to_flax(entries, foreign, sizes)
    assert back.keys() == ours.keys()
    for path, x in ours.items():
        np.testing.assert_array_equal(back[path], x)


@pytest.mark.parametrize(
    ("naming", "path", "name", "transform"),
    [
        ("resnet", "conv1/kernel", "conv1.weight", "conv"),
        ("resnet", "bn1/var", "bn1.running_var", "identity"),
        ("resnet", "layer3_5/bn3/scale", "layer3.5.bn3.weight", "identity"),
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
            "identity",
        ),
        ("sequential_resnet", "bn1/bias", "1.bias", "identity"),
        ("sequential_resnet", "layer4_1/conv2/kernel", "7.1.conv2.weight", "conv"),
        ("vit", "patch/kernel", "patch_embed.proj.weight", "conv"),
        ("vit", "positions", "pos_embed", "identity"),
        ("vit", "block11/mlp/dense2/bias", "blocks.11.mlp.fc2.bias", "identity"),
        (
            "torchvision_vit",
            "block0/attention/qkv/bias",
            "encoder.layers.encoder_layer_0.self_attention.in_proj_bias",
            "identity",
        ),
        ("torchvision_vit", "norm/scale", "encoder.ln.weight", "identity"),
        ("linear", "kernel", "weight", "dense"),
        ("prototypes", "g", "weight_g", "column"),
    ],
)
def test_published_names(naming, path, name, transform):
    entry = getattr(torch_names, naming)(path)
    assert entry == name_map.Entry(name, transform)


def test_heads():
    naming = torch_names.under(
        "fc.", torch_names.mlp({"dense1": 0, "bn1": 1, "dense2": "last"})
    )
    assert naming("bn1/mean") == name_map.Entry("fc.1.running_mean", "identity")
    assert naming("dense2/kernel") == name_map.Entry("fc.last.weight", "dense")
    assert naming("dense3/kernel") is None
    assert torch_names.NORMED["dense3"] == 6
    assert torch_names.NORMED["bn3"] == 7
    assert torch_names.PLAIN["dense3"] == 4


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
def test_other_layers_have_no_name(naming, path):
    assert getattr(torch_names, naming)(path) is None


# Nothing is skipped silently.


@pytest.fixture(scope="module")
def mini():
    sizes = shapes(ENCODERS["vit_mini"]())
    entries = entries_of(torch_names.vit, sizes)
    draw = np.random.default_rng(0)
    ours = {path: draw.normal(size=size) for path, size in sizes.items()}
    return entries, sizes, name_map.from_flax(entries, ours)


def test_a_missing_array_is_named(mini):
    entries, sizes, arrays = mini
    short = {name: x for name, x in arrays.items() if name != "blocks.2.norm1.weight"}
    with pytest.raises(ValueError, match=r"Missing: blocks\.2\.norm1\.weight\. Not"):
        name_map.to_flax(entries, short, sizes)


def test_an_unexpected_array_is_named_unless_it_is_ignored(mini):
    entries, sizes, arrays = mini
    more = arrays | {"blocks.0.ls1.gamma": np.ones(128)}
    with pytest.raises(ValueError, match=r"Not expected: blocks\.0\.ls1\.gamma"):
        name_map.to_flax(entries, more, sizes)
    assert name_map.to_flax(entries, more, sizes, [r"blocks\.\d+\.ls1\.gamma"])


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
    entries, sizes, arrays = mini
    with pytest.raises(ValueError, match=rf"other shapes: {name.replace('.', '[.]')} "):
        name_map.to_flax(entries, arrays | {name: change(arrays[name])}, sizes)


def test_no_array_is_an_error(mini):
    entries, sizes, _ = mini
    with pytest.raises(ValueError, match=r"Missing: .* and \d+ more"):
        name_map.to_flax(entries, {}, sizes)


# Comparison with the libraries.


def encoded(encoder, naming, arrays, images):
    """h of our encoder with these arrays."""
    sizes = shapes(encoder, images.shape[1])
    ignored = [r".*num_batches_tracked", r"(fc|heads?)\..*"]
    ours = name_map.to_flax(entries_of(naming, sizes), arrays, sizes, ignored)
    variables = {"params": {}, "batch_stats": {}} | nested(
        {
            path.replace("model_state/online", "batch_stats").replace("/encoder", ""): x
            for path, x in ours.items()
        }
    )
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
    assert relative_difference(ours, h.reshape(2, -1)) < 1e-5


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
    assert (
        relative_difference(encoded(encoder, VITS[library], arrays, images), h) < 1e-5
    )
