"""PyTorch networks to compare ours with: those of libraries, and small ones with the
names of published files.

Only tests marked `zoo` import this.
"""

import itertools
import warnings

import numpy as np
import torch
from torch import nn


def _import_torchvision():
    """torchvision, even where its compiled part is for another build of PyTorch.

    That part cannot be loaded then. The tests do not use its operators, such as
    non-maximum suppression, but importing torchvision needs their names.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torchvision
        except RuntimeError:
            for name in ("nms", "qnms"):
                _MISSING.define(
                    f"{name}(Tensor boxes, Tensor scores, float x) -> Tensor"
                )
            import torchvision
    return torchvision


_MISSING = torch.library.Library("torchvision", "FRAGMENT")
torchvision = _import_torchvision()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import timm

torch.manual_seed(0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resnet(depth=18, **kwargs):
    """A ResNet of torchvision with few classes."""
    return getattr(torchvision.models, f"resnet{depth}")(**{"num_classes": 5, **kwargs})


def headless(depth=18):
    net = resnet(depth)
    net.fc = nn.Identity()
    return net


def vit(dim, depth, heads, patch=16, size=224, classes=0):
    """A ViT of timm."""
    return timm.models.vision_transformer.VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        num_classes=classes,
    )


def shaken(net, seed=0):
    """The network in evaluation mode, with random norms, biases and statistics."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in net.state_dict().items():
            noise = torch.rand(x.shape, generator=draw)
            if name.endswith("running_var"):
                x.copy_(0.5 + noise)
            elif name.endswith("running_mean") or name.endswith("bias"):
                x.copy_(noise - 0.5)
            elif x.ndim == 1 and name.endswith("weight"):
                x.copy_(0.5 + noise)
    return net.eval()


def pictures(size, count=2):
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def normalised(images, mean=MEAN, std=STD):
    """Normalised images [N, 3, H, W], the input of PyTorch's networks."""
    x = (images / 255.0 - np.array(mean)) / np.array(std)
    return torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32)


def mlp(widths, *, bias=False, norm=True, last="", act=nn.ReLU):
    """A Sequential of Linear, batch norm and act, and a last Linear.

    last: the last batch norm: "" for none, "plain" without scale and shift, "affine".
    """
    layers = []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        end = i == len(widths) - 2
        layers.append(nn.Linear(a, b, bias=bias or (end and not last and norm)))
        if end:
            layers += [nn.BatchNorm1d(b, affine=last == "affine")] if last else []
        else:
            layers += [nn.BatchNorm1d(b)] if norm else []
            layers.append(act())
    return nn.Sequential(*layers)


class MoCo(nn.Module):
    """v1 with a Linear behind the encoder, v2 with two."""

    def __init__(self, version, depth=18, out=16, queue=32):
        super().__init__()
        self.encoder_q, self.encoder_k = (resnet(depth, num_classes=out) for _ in "qk")
        if version == 2:
            for net in (self.encoder_q, self.encoder_k):
                dim = net.fc.in_features
                net.fc = mlp([dim, dim, out], bias=True, norm=False)
        self.register_buffer("queue", nn.functional.normalize(torch.randn(out, queue)))
        self.register_buffer("queue_ptr", torch.tensor([7]))


def sincos(side, dim):
    """MoCo v3's positions, number by number: the row's half, then the column's."""
    table = np.zeros((1, 1 + side * side, dim))
    for r in range(side):
        for c in range(side):
            for i in range(dim // 4):
                w = 10000 ** (-i / (dim // 4))
                row = (np.sin(r * w), np.cos(r * w), np.sin(c * w), np.cos(c * w))
                for part, value in enumerate(row):
                    table[0, 1 + r * side + c, part * (dim // 4) + i] = value
    return torch.tensor(table, dtype=torch.float32)


class MoCoV3(nn.Module):
    def __init__(self, make, top, dim, hidden=24, out=8):
        super().__init__()
        vit = top == "head"
        self.base_encoder, self.momentum_encoder = make(), make()
        for net in (self.base_encoder, self.momentum_encoder):
            inner = [hidden] * (2 if vit else 1)
            setattr(net, top, mlp([dim, *inner, out], last="plain"))
            if vit:
                net.pos_embed.data = sincos(224 // 16, dim)
        self.predictor = mlp([out, hidden, out], last="plain" if vit else "")
        if not vit:  # all of its Linears are without bias
            self.predictor[3] = nn.Linear(hidden, out, bias=False)


class SimSiam(nn.Module):
    def __init__(self, dim=512, bottleneck=16):
        super().__init__()
        self.encoder = resnet(18, num_classes=dim)
        last = self.encoder.fc
        self.encoder.fc = mlp([512, 512, dim, dim], last="plain")
        self.encoder.fc[6] = last  # with its bias
        self.predictor = mlp([dim, bottleneck, dim])


class WeightNorm(nn.Module):
    """A Linear whose rows have their directions from v, their lengths from g."""

    def __init__(self, dim, out, g):
        super().__init__()
        self.weight_g = nn.Parameter(g)
        self.weight_v = nn.Parameter(torch.randn(out, dim))

    def forward(self, x):
        directions = self.weight_v / self.weight_v.norm(dim=1, keepdim=True)
        return x @ (self.weight_g * directions).T


class DINO(nn.Module):
    """Encoder and head, as the released code wraps them."""

    def __init__(self, backbone, dim, g, batch_norm=False, hidden=24, out=8):
        super().__init__()
        self.backbone, self.head = backbone, nn.Module()
        widths = [dim, hidden, hidden, out]
        self.head.mlp = mlp(widths, bias=True, norm=batch_norm, act=nn.GELU)
        self.head.last_layer = WeightNorm(out, len(g), g)

    def forward(self, x):
        """h, z and logits."""
        h = self.backbone(x)
        z = nn.functional.normalize(self.head.mlp(h), dim=-1)
        return h, z, self.head.last_layer(z)


class TSimCNE(nn.Module):
    """ResNet-18 for CIFAR, its shortcuts by another name."""

    def __init__(self, hidden=24, out=2):
        super().__init__()
        self.backbone = cifar(headless(18))
        for group in "234":
            block = getattr(self.backbone, f"layer{group}")[0]
            block.shortcut = block.downsample  # the same module, seen by both names
        self.projection_head = nn.Module()
        self.projection_head.layers = mlp([512, hidden, out], bias=True, norm=False)

    def names(self):
        """The state dict as the library's own module has it."""
        state = self.state_dict()
        return {k: x for k, x in state.items() if ".downsample." not in k}


def cifar(net, padding=1):
    net.conv1 = nn.Conv2d(3, 64, 3, 1, padding, bias=False)
    net.maxpool = nn.Identity()
    return net


class Layers(nn.Module):
    """A head of lightly: its Sequential is called layers."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.layers = mlp(*args, **kwargs)

    def forward(self, x):
        return self.layers(x)


class Parts(nn.Module):
    """Modules by their names, and buffers."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_buffer(name, part)


def sequential(net):
    """A ResNet's children but the last, in a Sequential, as lightly's examples do."""
    return nn.Sequential(*list(net.children())[:-1])
