"""Readers of what others published: what they find, what they refuse, and that our
network then says what the PyTorch one does."""

import json
import math

import jax
import numpy as np
import pytest

from simclr_jax.zoo import importing, torch_formats, torch_libraries
from simclr_jax.zoo.formats import FORMATS
from simclr_jax.zoo.layout import Found
from simclr_jax.zoo.torch_formats import dino, moco, mocov3, simsiam, tsimcne
from simclr_jax.zoo.torch_libraries import lightly, solo_learn, timm, torchvision
from tests.zoo.taking import Taken, built, difference, leaves

READERS = {
    **{"moco": moco, "mocov3": mocov3, "simsiam": simsiam, "dino": dino},
    **{"torchvision": torchvision, "timm": timm, "lightly": lightly},
    **{"solo_learn": solo_learn, "tsimcne": tsimcne},
}
CLOSE = 1e-5


# Sizes, from shapes alone.


ENCODER, HEADS = "params/encoder", "params/projector params/prototypes"
BOTH = "params target_params"


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        ("moco_imagenet.py:version=v1", {ENCODER: 23_508_032, BOTH: 47_540_608}),
        ("moco_imagenet.py:version=v2", {BOTH: 55_933_312}),
        ("mocov3_imagenet.py", {BOTH: 68_012_160}),
        # less two arrays of positions, which are none here
        ("mocov3_imagenet.py:encoder=vit_s", {BOTH: 84_266_752 - 2 * 197 * 384}),
        ("mocov3_imagenet.py:encoder=vit_b", {BOTH: 215_678_464 - 2 * 197 * 768}),
        # less the frozen bias
        ("simsiam_imagenet.py", {"params": 38_201_408 - 2048}),
        ("dino_imagenet.py:run=vit_s16", {ENCODER: 21_665_664, HEADS: 22_352_128}),
        ("dino_imagenet.py:run=vit_s8", {ENCODER: 21_670_272}),
        ("dino_imagenet.py:run=vit_b16", {ENCODER: 85_798_656}),
        # less the lengths of the prototypes, which are all 1
        ("dino_imagenet.py:run=resnet50", {HEADS: 24_345_440 - 60_000}),
    ],
)
def test_as_many_parameters_as_published(config, counts):
    _, _, shapes = built(Found(config, [], {}, []))
    sizes = {path: math.prod(x.shape) for path, x in shapes.items()}
    for parts, count in counts.items():
        roots = tuple(f"{part}/" for part in parts.split())
        assert sum(n for path, n in sizes.items() if path.startswith(roots)) == count


# What is found, by arrays that NumPy makes.


def norm(name, width):
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{leaf}": np.ones(width, np.float32) for leaf in leaves} | {
        f"{name}.num_batches_tracked": np.array(3)
    }


def conv(name, *shape):
    return {f"{name}.weight": np.zeros(shape, np.float32)}


def dense(name, wide, narrow, bias=True):
    return conv(name, wide, narrow) | ({f"{name}.bias": np.ones(wide)} if bias else {})


def resnet18(root, shortcut="downsample", kernel=7):
    """The published names and shapes."""
    arrays = conv("conv1", 64, 3, kernel, kernel) | norm("bn1", 64)
    before = 64
    for g, width in enumerate((64, 128, 256, 512), start=1):
        for b in range(2):
            name = f"layer{g}.{b}"
            arrays |= conv(f"{name}.conv1", width, before, 3, 3)
            arrays |= conv(f"{name}.conv2", width, width, 3, 3)
            arrays |= norm(f"{name}.bn1", width) | norm(f"{name}.bn2", width)
            if before != width:
                arrays |= conv(f"{name}.{shortcut}.0", width, before, 1, 1)
                arrays |= norm(f"{name}.{shortcut}.1", width)
            before = width
    return {root + name: x for name, x in arrays.items()}


def vit_mini(root, positions=None):
    """timm's names."""
    blocks = {}
    for i in range(4):
        name = f"blocks.{i}"
        for layer in ("norm1", "norm2"):
            blocks |= {f"{name}.{layer}.{x}": np.ones(128) for x in ("weight", "bias")}
        blocks |= dense(f"{name}.attn.qkv", 384, 128)
        blocks |= dense(f"{name}.attn.proj", 128, 128)
        blocks |= dense(f"{name}.mlp.fc1", 512, 128) | dense(
            f"{name}.mlp.fc2", 128, 512
        )
    arrays = blocks | {
        **{"cls_token": np.zeros((1, 1, 128)), "pos_embed": np.zeros((1, 65, 128))},
        **{"norm.weight": np.ones(128), "norm.bias": np.ones(128)},
        **conv("patch_embed.proj", 128, 3, 4, 4),
        "patch_embed.proj.bias": np.ones(128),
    }
    return {root + name: x for name, x in arrays.items()}


def moco_arrays(version):
    arrays = {"queue": np.arange(32.0).reshape(8, 4), "queue_ptr": np.array([3])}
    for root in ("encoder_q.", "encoder_k."):
        arrays |= resnet18(root)
        if version == 1:
            arrays |= dense(f"{root}fc", 8, 512)
        else:
            arrays |= dense(f"{root}fc.0", 512, 512) | dense(f"{root}fc.2", 8, 512)
    optimizer = {"optimizer.state.0.momentum_buffer": np.zeros(3)}
    return {f"state_dict.module.{name}": x for name, x in arrays.items()} | optimizer


def simsiam_arrays():
    fc = dense("fc.0", 512, 512, bias=False) | norm("fc.1", 512)
    fc |= dense("fc.3", 512, 512, bias=False) | norm("fc.4", 512)
    fc |= dense("fc.6", 512, 512) | norm("fc.7", 512)
    for leaf in ("weight", "bias"):
        del fc[f"fc.7.{leaf}"]
    q = dense("0", 16, 512, bias=False) | norm("1", 16) | dense("3", 512, 16)
    arrays = resnet18("encoder.") | {f"encoder.{name}": x for name, x in fc.items()}
    return arrays | {f"predictor.{name}": x for name, x in q.items()}


def dino_arrays(backbone, dim, lengths, wrapped):
    arrays = {"dino_loss.center": np.arange(6.0)[None]}
    heads = dense("head.mlp.0", 24, dim) | dense("head.mlp.2", 24, 24)
    heads |= dense("head.mlp.4", 5, 24) | conv("head.last_layer", 6, 5)
    heads["head.last_layer.weight_v"] = heads.pop("head.last_layer.weight")
    heads["head.last_layer.weight_g"] = np.full((6, 1), lengths, np.float32)
    for who in ("student.module.", f"teacher.{'module.' * wrapped}"):
        arrays |= {f"{who}{name}": x for name, x in heads.items()}
        arrays |= {f"{who}backbone.{name}": x for name, x in backbone.items()}
    return arrays


@pytest.fixture
def holding(monkeypatch):
    """Lets every path lead to a file of the arrays that the test gives."""

    def hold(arrays):
        for module in (torch_formats, torch_libraries):
            monkeypatch.setattr(module, "read", lambda path: dict(arrays))

    return hold


@pytest.mark.parametrize("version", [1, 2])
def test_moco_by_its_head(holding, version):
    holding(moco_arrays(version))
    found = moco("a.pth.tar")
    assert found.config == f"moco_imagenet.py:version=v{version}"
    taken = Taken(found)
    assert taken.c.encoder.name == "resnet18"
    assert (taken.c.method.out, taken.c.method.queue) == (8, 4)
    assert not taken.fresh
    queue = taken.arrays["method_state/queue"]
    np.testing.assert_array_equal(queue, np.arange(32).reshape(8, 4).T)
    assert taken.arrays["method_state/oldest"] == 3


@pytest.mark.parametrize("lost", ["encoder_k.bn1.running_var", "encoder_q.fc.2.bias"])
def test_what_moco_lacks_is_named(holding, lost):
    arrays = moco_arrays(2)
    del arrays[f"state_dict.module.{lost}"]
    holding(arrays)
    with pytest.raises(ValueError, match=f"Missing: {lost}. Not expected: nothing"):
        Taken(moco("a.pth.tar"))


def test_what_is_more_is_named(holding):
    holding(moco_arrays(2) | {"state_dict.module.encoder_q.fc.4.weight": np.zeros(1)})
    with pytest.raises(ValueError, match=r"Not expected: encoder_q\.fc\.4\.weight"):
        Taken(moco("a.pth.tar"))


def test_simsiams_frozen_bias_goes_into_the_mean(holding):
    holding(simsiam_arrays())
    taken = Taken(simsiam("a.pth.tar"))
    assert not taken.fresh
    assert (taken.c.method.out, taken.c.method.bottleneck) == (512, 16)
    mean = taken.arrays["model_state/online/projector/bn3/mean"]
    np.testing.assert_array_equal(mean, np.zeros(512))  # 1 - 1
    assert (taken.arrays["model_state/online/projector/bn2/mean"] == 1).all()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("lengths", "learnt"), [(1, False), (2, True)])
def test_dinos_lengths_are_leaves_where_they_are_not_one(
    holding, lengths, learnt, wrapped
):
    holding(dino_arrays(resnet18(""), 512, lengths, wrapped))
    found = dino("a.pth")
    assert found.config == "dino_imagenet.py:run=resnet50"
    taken = Taken(found)
    assert taken.c.method.norm_last_layer is not learnt
    assert ("params/prototypes/g" in taken.arrays) is learnt
    assert ("target_params/prototypes/g" in taken.arrays) is learnt
    assert not taken.fresh
    np.testing.assert_array_equal(taken.arrays["method_state"], np.arange(6))


def test_dinos_small_vits_have_lengths_even_of_one(holding):
    holding(dino_arrays(vit_mini(""), 128, 1, wrapped=False))
    taken = Taken(dino("a.pth"))
    assert taken.c.method.norm_last_layer is False
    assert (taken.arrays["params/prototypes/g"] == 1).all()


def test_dinos_encoder_alone_is_both_branches(holding):
    holding(vit_mini(""))
    taken = Taken(dino("a.pth"))
    assert taken.c.encoder.patch == 4
    assert taken.c.data.image_size == 32
    parts = {path.split("/")[1] for path in taken.fresh if path != "method_state"}
    assert parts == {"projector", "prototypes"}
    assert "target_params/encoder/positions" in taken.arrays


def test_moco_v3s_positions_must_be_those_of_the_paper(holding):
    holding(
        {
            f"{who}_encoder.{k}": x
            for who in ("base", "momentum")
            for k, x in vit_mini("").items()
        }
    )
    with pytest.raises(ValueError, match="not the fixed sines and cosines"):
        mocov3("a.pth.tar")


def test_solo_learns_networks_for_cifar_are_refused(holding):
    holding(resnet18("backbone.", kernel=3) | dense("projector.0", 4, 512))
    with pytest.raises(ValueError, match="pads by two pixels"):
        solo_learn("a.ckpt")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("other", ["nothing of it", "simsiam", "moco", "vit"])
def test_another_format_is_an_error(holding, name, other):
    """At the reader, or when its arrays are taken; never a network of noise."""
    arrays = {
        "nothing of it": {"a.weight": np.zeros(3)},
        "simsiam": simsiam_arrays(),
        "moco": moco_arrays(2),
        "vit": vit_mini("vit."),
    }[other]
    if name == other:
        return
    holding(arrays)
    with pytest.raises(
        ValueError, match=r"Files of this format hold|does not hold what|as in SimSiam"
    ):
        Taken(READERS[name]("a.pth"))


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        (resnet18("") | conv("layer4.2.conv1", 512, 512, 3, 3), "no ResNet"),
        (vit_mini("") | {"blocks.4.norm1.weight": np.ones(128)}, "with 5 blocks"),
    ],
)
def test_networks_that_there_are_not_here(holding, arrays, word):
    holding(arrays)
    with pytest.raises(ValueError, match=word):
        timm("a.pth")


# Beside PyTorch: the same outputs, to rounding.


def saved(path, tree, zipped=True):
    import torch

    torch.save(tree, path / "a.pth", _use_new_zipfile_serialization=zipped)
    return str(path / "a.pth")


def wrapped(net, prefix="module."):
    """The state dict as DistributedDataParallel has it."""
    return {f"{prefix}{name}": x for name, x in net.state_dict().items()}


def said(*modules, x):
    """What each says of what the one before said."""
    import torch

    outputs = []
    with torch.no_grad():
        for module in modules:
            x = module(x).flatten(1)
            outputs.append(x)
    return outputs


def compare(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert difference(a, b) < CLOSE


@pytest.mark.zoo
@pytest.mark.parametrize(("version", "zipped"), [(1, False), (2, True)])
def test_moco(version, zipped, tmp_path):
    from tests.zoo import torch_twins as twins

    net = twins.shaken(twins.MoCo(version))
    tree = {"epoch": 200, "arch": "resnet18", "state_dict": wrapped(net)}
    taken = Taken(moco(saved(tmp_path, tree, zipped)))
    images = twins.pictures(64)
    x = twins.normalised(images)
    for branch, encoder in (("online", net.encoder_q), ("target", net.encoder_k)):
        top, encoder.fc = encoder.fc, twins.nn.Identity()
        y = taken.outputs(images, branch)
        compare((y.h, y.z), said(encoder, top, x=x))
    queue = taken.arrays["method_state/queue"]
    np.testing.assert_array_equal(queue, net.queue.numpy().T)


@pytest.mark.zoo
@pytest.mark.parametrize(
    "small",
    [pytest.param(True, marks=pytest.mark.long), False],
    ids=["ViT-S", "ResNet"],
)
def test_mocov3(small, tmp_path):
    import torch

    from tests.zoo import torch_twins as twins

    if small:
        net = twins.MoCoV3(lambda: twins.vit(384, 12, 12), "head", 384)
    else:
        net = twins.MoCoV3(twins.headless, "fc", 512)
    net = twins.shaken(net)
    top = "head" if small else "fc"
    if small:  # so that it matters who attends to what
        with torch.no_grad():
            for name, x in net.named_parameters():
                x.mul_(4 if name.endswith("qkv.weight") else 1)
    tree = {"epoch": 300, "state_dict": wrapped(net), "scaler": {"scale": 1.0}}
    taken = Taken(mocov3(saved(tmp_path, tree)))
    assert not taken.fresh
    images = twins.pictures(224 if small else 64)
    x = twins.normalised(images)
    for branch, encoder in (
        ("online", net.base_encoder),
        ("target", net.momentum_encoder),
    ):
        projector = getattr(encoder, top)
        setattr(encoder, top, twins.nn.Identity())
        y = taken.outputs(images, branch)
        theirs = said(encoder, projector, net.predictor, x=x)
        compare(y, theirs)
    if small:  # what a reader with DINO's number of heads would make of it
        taken.method = built(found_with_heads(taken, 6))[1]
        assert difference(taken.outputs(images, "target").h, theirs[0]) > 0.03


def found_with_heads(taken, heads):
    changes = [("encoder.heads", str(heads)), ("method.hidden", "24")]
    changes += [("method.out", "8")]
    return Found("mocov3_imagenet.py:encoder=vit_s", changes, {}, [])


@pytest.mark.zoo
def test_simsiam(tmp_path):
    from tests.zoo import torch_twins as twins

    net = twins.shaken(twins.SimSiam())
    taken = Taken(simsiam(saved(tmp_path, {"state_dict": wrapped(net)})))
    assert not taken.fresh
    images = twins.pictures(64)
    top, net.encoder.fc = net.encoder.fc, twins.nn.Identity()
    y = taken.outputs(images)
    compare(y, said(net.encoder, top, net.predictor, x=twins.normalised(images)))


@pytest.mark.zoo
@pytest.mark.parametrize(
    "kind", [pytest.param("ViT-S", marks=pytest.mark.long), "ResNet"]
)
def test_dino(kind, tmp_path):
    import argparse

    import torch

    from simclr_jax.losses.distillation import prototype_logits, weight_normalised
    from tests.zoo import torch_twins as twins

    vit = kind == "ViT-S"
    count = 12

    def make(seed):
        torch.manual_seed(seed)
        g = torch.rand(count, 1) + 0.5 if vit else torch.ones(count, 1)
        backbone = twins.vit(384, 12, 6) if vit else twins.headless()
        net = twins.DINO(backbone, 384 if vit else 512, g, batch_norm=not vit)
        return twins.shaken(net, seed)

    student, teacher = make(0), make(1)
    tree = {
        "student": wrapped(student),
        "teacher": wrapped(teacher, "" if vit else "module."),
        "epoch": 800,
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": {"center": torch.rand(1, count)},
    }
    taken = Taken(dino(saved(tmp_path, tree)))
    assert not taken.fresh
    assert taken.method.keep == "target"
    images = twins.pictures(224 if vit else 64)
    x = twins.normalised(images)
    for branch, net in (("online", student), ("target", teacher)):
        y = taken.outputs(images, branch)
        root = {"online": "params", "target": "target_params"}[branch]
        weight = weight_normalised(**taken.tree(root)["prototypes"])
        logits = prototype_logits(y.z[None], weight)[0]
        with torch.no_grad():
            compare((y.h, y.z, logits), net(x))
    centre = tree["dino_loss"]["center"][0]
    np.testing.assert_array_equal(taken.arrays["method_state"], centre)


@pytest.mark.zoo
@pytest.mark.parametrize("size", [32, 48])
def test_dinos_encoder_alone(size, tmp_path):
    """At its own size, and with its positions resampled as DINO's code does it."""
    import torch

    from tests.zoo import torch_twins as twins

    net = twins.shaken(twins.vit(128, 4, 4, patch=4, size=32))
    with torch.no_grad():
        net.pos_embed.normal_(std=0.5)
    taken = Taken(dino(saved(tmp_path, net.state_dict())))
    images = twins.pictures(size)
    if size != 32:
        grid = net.pos_embed.data[:, 1:].reshape(1, 8, 8, 128).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(
            grid, scale_factor=(size / 4 + 0.1) / 8, mode="bicubic"
        )
        assert grid.shape[2] == math.floor(size / 4)
        grid = grid.permute(0, 2, 3, 1).reshape(1, -1, 128)
        whole = torch.cat([net.pos_embed.data[:, :1], grid], 1)
        other = twins.vit(128, 4, 4, patch=4, size=size)
        state = {**net.state_dict(), "pos_embed": whole}
        other.load_state_dict(state)
        net = other.eval()
    x = twins.normalised(images)
    for branch in ("online", "target"):
        compare((taken.outputs(images, branch).h,), said(net, x=x))


@pytest.mark.zoo
@pytest.mark.parametrize(
    "kind",
    [pytest.param("ResNet-50", marks=pytest.mark.long), "ViT", "ViT as published"],
)
def test_torchvision(kind, tmp_path):
    from tests.zoo import torch_twins as twins

    if kind == "ResNet-50":
        net, last = twins.shaken(twins.resnet(50)), "fc"
    else:
        model = twins.torchvision.models.VisionTransformer
        net, last = twins.shaken(model(32, 4, 4, 4, 128, 512, num_classes=5)), "heads"
        twins.nn.init.normal_(net.heads.head.weight)
    state = net.state_dict()
    if "published" in kind:
        names = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
        for new, old in names.items():
            state = {name.replace(new, old): x for name, x in state.items()}
    taken = Taken(torchvision(saved(tmp_path, state)), classes=5)
    size = 64 if last == "fc" else 32
    images = twins.pictures(size)
    top = getattr(net, last)
    setattr(net, last, twins.nn.Identity())
    h, logits = said(net, top, x=twins.normalised(images))
    y = taken.outputs(images)
    probe = taken.tree("params")["probe"]
    compare((y.h, y.h @ probe["kernel"] + probe["bias"]), (h, logits))


@pytest.mark.zoo
def test_timm(tmp_path):
    from tests.zoo import torch_twins as twins

    net = twins.shaken(twins.vit(128, 4, 4, patch=4, size=32, classes=5))
    taken = Taken(timm(saved(tmp_path, net.state_dict())), classes=5)
    images = twins.pictures(32)
    top, net.head = net.head, twins.nn.Identity()
    h, logits = said(net, top, x=twins.normalised(images))
    y = taken.outputs(images)
    probe = taken.tree("params")["probe"]
    compare((y.h, y.h @ probe["kernel"] + probe["bias"]), (h, logits))
    assert any("mean and deviation" in note for note in timm_notes(tmp_path))


def timm_notes(tmp_path):
    return timm(str(tmp_path / "a.pth")).notes


def lightly_parts(kind):
    """(modules by name, the online network's, the target's)."""
    from tests.zoo import torch_twins as twins

    backbone, widths = twins.headless, [512, 24, 8]
    if kind == "simclr":
        parts = {
            "backbone": twins.sequential(twins.resnet()),
            "projection_head": twins.Layers(widths, last="affine"),
        }
        parts["projection_head"].layers[3] = twins.nn.Linear(24, 8, bias=False)
        return parts, ("backbone", "projection_head"), ()
    if kind == "simclr without norm":
        parts = {
            "backbone": twins.sequential(twins.cifar(twins.resnet())),
            "projection_head": twins.Layers(widths, bias=True, norm=False),
        }
        return parts, ("backbone", "projection_head"), ()
    if kind == "moco":
        make = lambda: twins.Layers(widths, bias=True, norm=False)  # noqa: E731
        names = ("query_backbone", "query_projection_head")
        names += ("backbone", "projection_head")
        parts = dict(zip(names, (backbone(), make(), backbone(), make()), strict=True))
        return parts, names[:2], names[2:]
    names = ("backbone", "projection_head", "prediction_head")
    targets = ("backbone_momentum", "projection_head_momentum")
    parts = {name: twins.Layers(widths) for name in (names[1], targets[1])}
    parts |= {name: backbone() for name in (names[0], targets[0])}
    parts |= {names[2]: twins.Layers([8, 24, 8])}
    return parts, names, targets


@pytest.mark.zoo
@pytest.mark.parametrize("kind", ["simclr", "simclr without norm", "moco", "byol"])
def test_lightly(kind, tmp_path):
    import torch

    from tests.zoo import torch_twins as twins

    parts, here, there = lightly_parts(kind)
    more = {"criterion": twins.Parts(bank=torch.zeros(8, 16), bank_ptr=torch.zeros(1))}
    net = twins.shaken(twins.Parts(**parts, **more))
    tree = {"state_dict": net.state_dict(), "optimizer_states": [], "epoch": 9}
    taken = Taken(lightly(saved(tmp_path, tree)))
    assert taken.c.method.name == kind.split()[0]
    images = twins.pictures(32 if "without" in kind else 64)
    x = twins.normalised(images)
    for branch, names in (("online", here), ("target", there)):
        if names:
            y = taken.outputs(images, branch)
            theirs = said(*(getattr(net, name) for name in names), x=x)
            compare(y[: len(names)], theirs)


@pytest.mark.zoo
@pytest.mark.parametrize("kind", ["simclr", "moco", "byol", "byol, narrow"])
def test_solo_learn(kind, tmp_path):
    import torch

    from tests.zoo import torch_twins as twins

    bare = not kind.startswith("byol")
    make = lambda *w: twins.mlp(w, bias=True, norm=not bare)  # noqa: E731
    parts = {"backbone": twins.headless(), "projector": make(512, 24, 8)}
    parts["classifier"] = twins.nn.Linear(512, 5)
    here, there = ["backbone", "projector"], []
    if kind != "simclr":
        there = ["momentum_backbone", "momentum_projector"]
        parts |= dict(zip(there, (twins.headless(), make(512, 24, 8)), strict=True))
    if kind == "moco":
        parts |= {"queue": torch.zeros(2, 8, 16), "queue_ptr": torch.zeros(1)}
    if not bare:
        parts["predictor"] = make(8, 16 if "narrow" in kind else 24, 8)
        here += [] if "narrow" in kind else ["predictor"]
    net = twins.shaken(twins.Parts(**parts))
    found = solo_learn(saved(tmp_path, {"state_dict": net.state_dict()}))
    taken = Taken(found, classes=5)
    assert taken.c.method.name == kind.split(",")[0]
    images = twins.pictures(64)
    x = twins.normalised(images)
    for branch, names in (("online", here), ("target", there)):
        if names:
            y = taken.outputs(images, branch)
            theirs = said(*(getattr(net, name) for name in names), x=x)
            compare(y[: len(names)], theirs)
    probe = taken.tree("params")["probe"]
    np.testing.assert_array_equal(probe["kernel"].T, net.classifier.weight.detach())


@pytest.mark.zoo
def test_tsimcne(tmp_path):
    """With the module pickled beside the state dict, as the paper's code saves it."""
    from tests.zoo import torch_twins as twins

    net = twins.shaken(twins.TSimCNE())
    tree = {"model": net.backbone, "model_sd": net.names(), "opt": None}
    taken = Taken(tsimcne(saved(tmp_path, tree)))
    assert not taken.fresh
    images = twins.pictures(32)
    c = taken.c.encoder
    x = twins.normalised(images, c.mean, c.std)
    theirs = said(net.backbone, net.projection_head.layers, x=x)
    compare(taken.outputs(images)[:2], theirs)


@pytest.mark.zoo
def test_a_work_directory(tmp_path, monkeypatch, in_process):
    """All of a MoCo file by way of the door's own function, and back from the disk."""
    from simclr_jax import config, run, sharding
    from simclr_jax.train.checkpoint import restore_latest
    from tests.zoo import torch_twins as twins

    monkeypatch.setitem(FORMATS, "moco", moco)
    net = twins.shaken(twins.MoCo(2))
    path = saved(tmp_path, {"state_dict": wrapped(net)}, zipped=False)
    workdir = tmp_path / "run"
    changes = [("data.name", "cifar10_mini"), ("data.batch_size", "32")]
    importing.bring("moco", path, str(workdir), changes)
    c = config.restored(json.loads((workdir / "config.json").read_text()))
    job = run.assemble(c, sharding.make_mesh(), **run.sizes(workdir))
    state, step = restore_latest(workdir / "checkpoints", run.abstract(job))
    assert step == job.total
    images = twins.pictures(64)
    y = jax.jit(job.method.network.encode)(*job.method.kept(state), images)
    top, net.encoder_q.fc = net.encoder_q.fc, twins.nn.Identity()
    theirs = said(net.encoder_q, top, x=twins.normalised(images))
    compare((y.h[0], y.z[0]), theirs)
    queue = leaves(state)["method_state/queue"]
    np.testing.assert_array_equal(queue, net.queue.numpy().T)
