"""SimCLR in plain PyTorch: networks of `step`, loss and optimiser."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def norm(
    width: int,
    kind: Callable[[int], nn.Module] = nn.BatchNorm2d,
    *,
    scale: float = 1.0,
    bias: bool = True,
) -> nn.Module:
    """A batch norm; its scale starts at `scale`, and its bias is trained if `bias`."""
    layer = kind(width)
    nn.init.constant_(layer.weight, scale)
    layer.bias.requires_grad_(bias)
    return layer


class Network(NamedTuple):
    """Sizes of a ResNet with basic blocks, a 3x3 stem, and a projector."""

    channels: int  # of the first group
    blocks: int  # of each of the four groups
    stride: int  # of the stem
    hidden: int  # width of the projector
    out: int  # width of z


NETWORKS = {
    "quickstart": Network(16, blocks=1, stride=2, hidden=256, out=32),
    "resnet18": Network(64, blocks=2, stride=1, hidden=512, out=128),
}


class Block(nn.Module):
    """Of a basic ResNet; `project`: its shortcut is a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int, project: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = norm(outputs, scale=0.0)
        self.project = project
        if project:
            self.shortcut_conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_bn = norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.shortcut_bn(self.shortcut_conv(x)) if self.project else x
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class Encoder(nn.Module):
    """[N, 3, H, W] -> h [N, 8 * channels]; the first block of a group projects."""

    def __init__(self, size: Network):
        super().__init__()
        width = size.channels
        self.conv1 = nn.Conv2d(3, width, 3, size.stride, 1, bias=False)
        self.bn1 = norm(width)
        self.blocks = []
        for group in range(4):
            outputs = size.channels * 2**group
            for i in range(size.blocks):
                stride = 2 if group and i == 0 else 1
                block = Block(width, outputs, stride, project=i == 0)
                self.add_module(f"layer{group + 1}_{i}", block)
                self.blocks.append(block)
                width = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


class Projector(nn.Module):
    """h [N, 8 * channels] -> z [N, out]."""

    def __init__(self, size: Network):
        super().__init__()
        self.dense1 = nn.Linear(8 * size.channels, size.hidden, bias=False)
        self.bn1 = norm(size.hidden, nn.BatchNorm1d)
        self.dense2 = nn.Linear(size.hidden, size.out, bias=False)
        self.bn2 = norm(size.out, nn.BatchNorm1d, bias=False)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.dense2(F.relu(self.bn1(self.dense1(h)))))


class SimCLR(nn.Module):
    """Encoder, projector and the online probe."""

    def __init__(self, size: Network, classes: int = 10):
        super().__init__()
        self.encoder, self.projector = Encoder(size), Projector(size)
        self.probe = nn.Linear(8 * size.channels, classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.encoder(x)
        return h, self.projector(h)

    def learnable(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by this project's names."""
        kinds = {"weight": "kernel", "bias": "bias"}
        named = {}
        for name, p in self.named_parameters():
            module, _, kind = name.replace(".", "/").rpartition("/")
            kind = "scale" if "bn" in module and kind == "weight" else kinds[kind]
            if p.requires_grad:
                named[f"{module}/{kind}"] = p
        return named

    @torch.no_grad()
    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Copies this project's parameters, by name; kernels are [..., I, O]."""
        learnable = self.learnable()
        assert learnable.keys() == arrays.keys(), learnable.keys() ^ arrays.keys()
        for name, p in learnable.items():
            x = torch.from_numpy(arrays[name])
            p.copy_(x.permute(3, 2, 0, 1) if x.ndim == 4 else x.T if x.ndim == 2 else x)


def nt_xent(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """Of z [2N, D], the N first views before the N second ones."""
    z = F.normalize(z)
    similarity = (z @ z.T / temperature).fill_diagonal_(float("-inf"))
    n = len(z) // 2
    positive = torch.arange(2 * n).roll(n)
    return F.cross_entropy(similarity, positive)


def adamw(model: SimCLR, weight_decay: float) -> torch.optim.AdamW:
    """Decays kernels only, and not the probe's."""
    kernels, others = [], []
    for name, p in model.learnable().items():
        decays = name.endswith("kernel") and not name.startswith("probe")
        (kernels if decays else others).append(p)
    groups = [{"params": kernels}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)


def make_step(
    model: SimCLR, optimiser: torch.optim.Optimizer, *, temperature: float
) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
    """(views [2N, 3, H, W] in [0, 1], labels [N], rate) -> SimCLR's loss, a tensor."""

    def step(x, labels, rate: float):
        h, z = model(x)
        loss = 2 * nt_xent(z, temperature)  # both directions are summed
        probe = F.cross_entropy(model.probe(h.detach()), labels.repeat(2))
        optimiser.zero_grad()
        (loss + probe).backward()
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        return loss.detach()

    return step
