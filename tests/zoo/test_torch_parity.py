"""Our network says what the PyTorch one says whose file was read, to rounding."""

import json
import math

import jax
import numpy as np
import pytest

from simclr_jax.experiment import importing
from simclr_jax.tree import by_path
from simclr_jax.zoo.formats import FORMATS
from simclr_jax.zoo.name_map import Found
from simclr_jax.zoo.torch.formats import dino, moco, mocov3, simsiam, tsimcne
from simclr_jax.zoo.torch.libraries import (
    huggingface,
    lightly,
    solo_learn,
    timm,
    torchvision,
)
from tests.zoo.taking import Taken, built, difference

CLOSE = 1e-5


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


def compare_branches(taken, net, here, there, size):
    """Modules by their names: of the online network, and of the target if any."""
    from tests.zoo import torch_twins as twins

    images = twins.pictures(size)
    x = twins.normalised(images)
    for branch, names in (("online", here), ("target", there)):
        if names:
            y = taken.outputs(images, branch)
            theirs = said(*(getattr(net, name) for name in names), x=x)
            compare(y[: len(names)], theirs)


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


@pytest.mark.zoo
@pytest.mark.parametrize(("heads", "new"), [(4, True), (2, False)])
def test_timms_folder(heads, new, tmp_path):
    """As timm itself writes it for the hub: pixels and heads are in its config.json."""
    import torch
    from timm.models import save_for_hf

    from tests.zoo import torch_twins as twins

    words = {"depth": 4, "embed_dim": 128, "num_heads": heads, "patch_size": 4}
    words |= {"img_size": 32, "num_classes": 0}
    pixels = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    net = twins.shaken(
        twins.timm.create_model(
            "vit_tiny_patch16_224", pretrained_cfg_overlay=pixels, **words
        )
    )
    with torch.no_grad():  # so that it matters who attends to what
        for block in net.blocks:
            block.attn.qkv.weight.mul_(8)
    save_for_hf(net, tmp_path, safe_serialization=new)
    found = huggingface(str(tmp_path))
    assert not any("Pixels" in note or "Heads" in note for note in found.notes)
    taken, images = Taken(found), twins.pictures(32)
    x = twins.normalised(images, **pixels)
    compare((taken.outputs(images).h,), said(net, x=x))


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
    compare_branches(taken, net, here, there, 32 if "without" in kind else 64)


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
    compare_branches(taken, net, here, there, 64)
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
    from simclr_jax import sharding
    from simclr_jax.experiment import build, config
    from simclr_jax.train.checkpoint import restore_latest
    from tests.zoo import torch_twins as twins

    monkeypatch.setitem(FORMATS, "moco", moco)
    net = twins.shaken(twins.MoCo(2))
    path = saved(tmp_path, {"state_dict": wrapped(net)}, zipped=False)
    workdir = tmp_path / "run"
    changes = [("data.name", "cifar10_mini"), ("data.batch_size", "32")]
    importing.bring("moco", path, str(workdir), changes)
    c = config.restored(json.loads((workdir / "config.json").read_text()))
    job = build.assemble(c, sharding.make_mesh(), **build.sizes(workdir))
    state, step = restore_latest(workdir / "checkpoints", build.abstract(job))
    assert step == job.total
    images = twins.pictures(64)
    y = jax.jit(job.method.network.encode)(*job.method.kept(state), images)
    top, net.encoder_q.fc = net.encoder_q.fc, twins.nn.Identity()
    theirs = said(net.encoder_q, top, x=twins.normalised(images))
    compare((y.h[0], y.z[0]), theirs)
    queue = by_path(state)["method_state/queue"]
    np.testing.assert_array_equal(queue, net.queue.numpy().T)
