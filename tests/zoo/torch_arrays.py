"""Small NumPy arrays with the names of published PyTorch files."""

import numpy as np


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
    """A ResNet-18 with torchvision's names and shapes."""
    arrays = conv("conv1", 64, 3, kernel, kernel) | norm("bn1", 64)
    channels = 64
    for g, width in enumerate((64, 128, 256, 512), start=1):
        for b in range(2):
            name = f"layer{g}.{b}"
            arrays |= conv(f"{name}.conv1", width, channels, 3, 3)
            arrays |= conv(f"{name}.conv2", width, width, 3, 3)
            arrays |= norm(f"{name}.bn1", width) | norm(f"{name}.bn2", width)
            if channels != width:
                arrays |= conv(f"{name}.{shortcut}.0", width, channels, 1, 1)
                arrays |= norm(f"{name}.{shortcut}.1", width)
            channels = width
    return {root + name: x for name, x in arrays.items()}


def vit_mini(root):
    """A vit_mini with timm's names."""
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
    arrays = {"queue": np.arange(128.0).reshape(8, 16), "queue_ptr": np.array([3])}
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
    for root in ("student.module.", f"teacher.{'module.' * wrapped}"):
        arrays |= {f"{root}{name}": x for name, x in heads.items()}
        arrays |= {f"{root}backbone.{name}": x for name, x in backbone.items()}
    return arrays
