"""Imports of PyTorch files: the imported network computes the same as PyTorch's."""

import argparse
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.tree import by_path
from tests.zoo.workdirs import (
    imported,
    logits,
    outputs,
    relative_difference,
    saved_run,
)

TOLERANCE = 1e-5

pytestmark = [pytest.mark.zoo, pytest.mark.usefixtures("in_process")]


@pytest.fixture
def twins():
    from tests.zoo import torch_twins

    return torch_twins


def saved(path, tree, zipped=True):
    import torch

    torch.save(tree, path / "a.pth", _use_new_zipfile_serialization=zipped)
    return path / "a.pth"


def wrapped(net, prefix="module."):
    """The state dict of a network in DistributedDataParallel."""
    return {f"{prefix}{name}": x for name, x in net.state_dict().items()}


def chain(*modules, x):
    """The outputs of modules, each with the output of the one before as input."""
    import torch

    results = []
    with torch.no_grad():
        for module in modules:
            x = module(x).flatten(1)
            results.append(x)
    return results


def compare(actual, expected):
    """actual: as many of h, z and p as there are expected outputs."""
    for a, b in zip(list(actual.values())[: len(expected)], expected, strict=True):
        assert relative_difference(a, b) < TOLERANCE


def newly_initialised(workdir) -> list[str]:
    """The layers that an import did not find in the file."""
    return saved_json(workdir)["fresh"]


def saved_json(workdir):
    return json.loads((workdir / "import.json").read_text())


def compare_branches(twins, workdir, net, online, target, size):
    """Compares both branches with modules of a network, by their names."""
    images = twins.pictures(size)
    x = twins.normalised(images)
    for branch, names in (("online", online), ("target", target)):
        if names:
            expected = chain(*(getattr(net, name) for name in names), x=x)
            compare(outputs(workdir, images, branch), expected)


@pytest.mark.parametrize(("version", "zipped"), [(1, False), (2, True)])
def test_moco(twins, version, zipped, tmp_path):
    net = twins.shaken(twins.MoCo(version))
    tree = {"epoch": 200, "arch": "resnet18", "state_dict": wrapped(net)}
    workdir = imported(tmp_path, "moco", saved(tmp_path, tree, zipped))
    images = twins.pictures(64)
    x = twins.normalised(images)
    for branch, encoder in (("online", net.encoder_q), ("target", net.encoder_k)):
        head, encoder.fc = encoder.fc, twins.nn.Identity()
        compare(outputs(workdir, images, branch), chain(encoder, head, x=x))
    queue = by_path(saved_run(workdir).state)["method_state/queue"]
    np.testing.assert_array_equal(queue, net.queue.numpy().T)


def test_mocov3_resnet(twins, tmp_path):
    net = twins.shaken(twins.MoCoV3(twins.headless, "fc", 512))
    compare_mocov3(twins, net, "fc", 64, tmp_path)


@pytest.mark.long
def test_mocov3_vit(twins, tmp_path):
    import torch

    net = twins.MoCoV3(lambda: twins.vit(384, 12, 12), "head", 384)
    net = twins.shaken(net)
    with torch.no_grad():  # makes attention, and thus the number of heads, matter
        for name, x in net.named_parameters():
            x.mul_(4 if name.endswith("qkv.weight") else 1)
    images, h = compare_mocov3(twins, net, "head", 224, tmp_path)
    wrong = tmp_path / "wrong"
    source = tmp_path / "a.pth"
    workdir = imported(wrong, "mocov3", source, encoder__heads="6")
    assert relative_difference(outputs(workdir, images, "target")["h"], h) > 0.03


def compare_mocov3(twins, net, top, size, tmp_path):
    """top: name of the projector. Returns the images and h of the target."""
    tree = {"epoch": 300, "state_dict": wrapped(net), "scaler": {"scale": 1.0}}
    workdir = imported(tmp_path, "mocov3", saved(tmp_path, tree))
    assert not newly_initialised(workdir)
    images = twins.pictures(size)
    x = twins.normalised(images)
    branches = {"online": net.base_encoder, "target": net.momentum_encoder}
    for branch, encoder in branches.items():
        projector = getattr(encoder, top)
        setattr(encoder, top, twins.nn.Identity())
        expected = chain(encoder, projector, net.predictor, x=x)
        compare(outputs(workdir, images, branch), expected)
    return images, expected[0]


def test_simsiam(twins, tmp_path):
    net = twins.shaken(twins.SimSiam())
    source = saved(tmp_path, {"state_dict": wrapped(net)})
    workdir = imported(tmp_path, "simsiam", source)
    assert not newly_initialised(workdir)
    images = twins.pictures(64)
    head, net.encoder.fc = net.encoder.fc, twins.nn.Identity()
    x = twins.normalised(images)
    compare(outputs(workdir, images), chain(net.encoder, head, net.predictor, x=x))


@pytest.mark.parametrize(
    "vit", [pytest.param(True, marks=pytest.mark.long), False], ids=["vit", "resnet"]
)
def test_dino(twins, vit, tmp_path):
    import torch

    from simclr_jax.losses.distillation import prototype_logits, weight_normalised

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
    workdir = imported(tmp_path, "dino", saved(tmp_path, tree))
    assert not newly_initialised(workdir)
    state = saved_run(workdir).state
    assert saved_run(workdir).run.method.keep == "target"
    images = twins.pictures(224 if vit else 64)
    x = twins.normalised(images)
    branches = {
        "online": (student, state.params),
        "target": (teacher, state.target_params),
    }
    for branch, (net, params) in branches.items():
        y = outputs(workdir, images, branch)
        weight = weight_normalised(**params["prototypes"])
        scores = prototype_logits(jnp.asarray(y["z"][None]), weight)[0]
        with torch.no_grad():
            compare({"h": y["h"], "z": y["z"], "logits": scores}, net(x))
    centre = tree["dino_loss"]["center"][0]
    np.testing.assert_array_equal(state.method_state, centre)


@pytest.mark.parametrize("size", [32, 48])
def test_dinos_encoder_alone(twins, size, tmp_path):
    """At its own size, and with positions resampled as in DINO's code."""
    import torch

    net = twins.shaken(twins.vit(128, 4, 4, patch=4, size=32))
    with torch.no_grad():
        net.pos_embed.normal_(std=0.5)
    workdir = imported(tmp_path, "dino", saved(tmp_path, net.state_dict()))
    images = twins.pictures(size)
    if size != 32:
        grid = net.pos_embed.data[:, 1:].reshape(1, 8, 8, 128).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(
            grid, scale_factor=(size / 4 + 0.1) / 8, mode="bicubic"
        )
        assert grid.shape[2] == math.floor(size / 4)
        grid = grid.permute(0, 2, 3, 1).reshape(1, -1, 128)
        positions = torch.cat([net.pos_embed.data[:, :1], grid], 1)
        other = twins.vit(128, 4, 4, patch=4, size=size)
        other.load_state_dict({**net.state_dict(), "pos_embed": positions})
        net = other.eval()
    x = twins.normalised(images)
    for branch in ("online", "target"):
        compare(outputs(workdir, images, branch), chain(net, x=x))


@pytest.mark.parametrize(
    "network",
    [pytest.param("ResNet-50", marks=pytest.mark.long), "ViT", "ViT as published"],
)
def test_torchvision(twins, network, tmp_path):
    if network == "ResNet-50":
        net, last = twins.shaken(twins.resnet(50)), "fc"
    else:
        model = twins.torchvision.models.VisionTransformer
        net, last = twins.shaken(model(32, 4, 4, 4, 128, 512, num_classes=5)), "heads"
        twins.nn.init.normal_(net.heads.head.weight)
    state = net.state_dict()
    if "published" in network:
        names = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
        for new, old in names.items():
            state = {name.replace(new, old): x for name, x in state.items()}
    workdir = imported(tmp_path, "torchvision", saved(tmp_path, state))
    compare_classifier(twins, workdir, net, last, 64 if last == "fc" else 32)


def test_timm(twins, tmp_path):
    net = twins.shaken(twins.vit(128, 4, 4, patch=4, size=32, classes=5))
    workdir = imported(tmp_path, "timm", saved(tmp_path, net.state_dict()))
    compare_classifier(twins, workdir, net, "head", 32)
    assert any("mean and std" in note for note in saved_json(workdir)["notes"])


def compare_classifier(twins, workdir, net, last, size):
    """last: name of the classifier's module."""
    images = twins.pictures(size)
    head = getattr(net, last)
    setattr(net, last, twins.nn.Identity())
    h = outputs(workdir, images)["h"]
    expected = chain(net, head, x=twins.normalised(images))
    compare({"h": h, "logits": logits(workdir, h)}, expected)


@pytest.mark.parametrize(("heads", "new"), [(4, True), (2, False)])
def test_timms_folder(twins, heads, new, tmp_path):
    """As timm writes it for the hub, with pixels and heads in its config.json."""
    import torch
    from timm.models import save_for_hf

    sizes = {"depth": 4, "embed_dim": 128, "num_heads": heads, "patch_size": 4}
    sizes |= {"img_size": 32, "num_classes": 0}
    pixels = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    net = twins.shaken(
        twins.timm.create_model(
            "vit_tiny_patch16_224", pretrained_cfg_overlay=pixels, **sizes
        )
    )
    with torch.no_grad():  # makes attention, and thus the number of heads, matter
        for block in net.blocks:
            block.attn.qkv.weight.mul_(8)
    save_for_hf(net, tmp_path / "folder", safe_serialization=new)
    workdir = imported(tmp_path, "huggingface", tmp_path / "folder")
    notes = saved_json(workdir)["notes"]
    assert not any("Pixels" in note or "heads" in note for note in notes)
    images = twins.pictures(32)
    x = twins.normalised(images, **pixels)
    compare(outputs(workdir, images), chain(net, x=x))


def lightly_parts(twins, method):
    """(modules by name, the online network's, the target's)."""
    backbone, widths = twins.headless, [512, 24, 8]
    if method == "simclr":
        parts = {
            "backbone": twins.sequential(twins.resnet()),
            "projection_head": twins.Layers(widths, last="affine"),
        }
        parts["projection_head"].layers[3] = twins.nn.Linear(24, 8, bias=False)
        return parts, ("backbone", "projection_head"), ()
    if method == "simclr without norm":
        parts = {
            "backbone": twins.sequential(twins.cifar(twins.resnet())),
            "projection_head": twins.Layers(widths, bias=True, norm=False),
        }
        return parts, ("backbone", "projection_head"), ()
    if method == "moco":
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


@pytest.mark.parametrize("method", ["simclr", "simclr without norm", "moco", "byol"])
def test_lightly(twins, method, tmp_path):
    import torch

    parts, online, target = lightly_parts(twins, method)
    more = {"criterion": twins.Parts(bank=torch.zeros(8, 16), bank_ptr=torch.zeros(1))}
    net = twins.shaken(twins.Parts(**parts, **more))
    tree = {"state_dict": net.state_dict(), "optimizer_states": [], "epoch": 9}
    workdir = imported(tmp_path, "lightly", saved(tmp_path, tree))
    assert saved_run(workdir).config.method.name == method.split()[0]
    size = 32 if "without" in method else 64
    compare_branches(twins, workdir, net, online, target, size)


@pytest.mark.parametrize("method", ["simclr", "moco", "byol", "byol, narrow"])
def test_solo_learn(twins, method, tmp_path):
    import torch

    byol = method.startswith("byol")
    make = lambda *w: twins.mlp(w, bias=True, norm=byol)  # noqa: E731
    parts = {"backbone": twins.headless(), "projector": make(512, 24, 8)}
    parts["classifier"] = twins.nn.Linear(512, 5)
    online, target = ["backbone", "projector"], []
    if method != "simclr":
        target = ["momentum_backbone", "momentum_projector"]
        parts |= dict(zip(target, (twins.headless(), make(512, 24, 8)), strict=True))
    if method == "moco":
        parts |= {"queue": torch.zeros(2, 8, 16), "queue_ptr": torch.zeros(1)}
    if byol:
        parts["predictor"] = make(8, 16 if "narrow" in method else 24, 8)
        online += [] if "narrow" in method else ["predictor"]
    net = twins.shaken(twins.Parts(**parts))
    source = saved(tmp_path, {"state_dict": net.state_dict()})
    workdir = imported(tmp_path, "solo_learn", source)
    assert saved_run(workdir).config.method.name == method.split(",")[0]
    compare_branches(twins, workdir, net, online, target, 64)
    kernel = saved_run(workdir).state.params["probe"]["kernel"]
    np.testing.assert_array_equal(kernel.T, net.classifier.weight.detach())


def test_tsimcne(twins, tmp_path):
    """With a module pickled beside the state dict, as the paper's code saves it."""
    net = twins.shaken(twins.TSimCNE())
    tree = {"model": net.backbone, "model_sd": net.names(), "opt": None}
    workdir = imported(tmp_path, "tsimcne", saved(tmp_path, tree))
    assert not newly_initialised(workdir)
    images = twins.pictures(32)
    encoder = saved_run(workdir).config.encoder
    x = twins.normalised(images, encoder.mean, encoder.std)
    expected = chain(net.backbone, net.projection_head.layers, x=x)
    compare(outputs(workdir, images), expected)
