"""BYOL's networks in TensorFlow, written from the names of Haiku's arrays.

`encoder` describes the layers; `Shapes` runs it to list the arrays, and `Forward` to
compute.
"""

import numpy as np
import tensorflow as tf

BLOCKS = {50: (3, 4, 6, 3), 200: (3, 24, 36, 3)}
BRANCHES = ("online_params", "target_params", "online_state", "target_state")


class Shapes:
    """Collects the names and shapes of arrays; x is the number of channels."""

    def __init__(self):
        self.params, self.state = {}, {}

    def conv(self, x, name, out, size, stride=1):
        self.params[name] = {"w": (size, size, x, out)}
        return out

    def norm(self, x, name, relu=True, axes=3):
        shape = (1,) * axes + (x,)
        self.params[name] = {"scale": shape, "offset": shape}
        for moment in ("mean_ema", "var_ema"):
            average = {"hidden": shape, "average": shape, "counter": ()}
            self.state[f"{name}/~/{moment}"] = average
        return x

    def add(self, x, shortcut):
        return x

    def pool(self, x):
        return x


class Forward(Shapes):
    """Computes in TensorFlow, from arrays by name; x is [N, H, W, C] or [N, D]."""

    def __init__(self, params, state):
        self.params, self.state = params, state

    def conv(self, x, name, out, size, stride=1):
        return tf.nn.conv2d(x, self.params[name]["w"], stride, "SAME")

    def norm(self, x, name, relu=True, axes=3):
        params = self.params[name]
        mean, var = (
            self.state[f"{name}/~/{moment}"]["average"]
            for moment in ("mean_ema", "var_ema")
        )
        x = (x - mean) / tf.sqrt(var + 1e-5) * params["scale"] + params["offset"]
        return tf.nn.relu(x) if relu else x

    def add(self, x, shortcut):
        return tf.nn.relu(x + shortcut)

    def pool(self, x):
        return tf.nn.max_pool(x, 3, 2, "SAME")

    def head(self, x, name):
        first, last = self.params[f"{name}/linear"], self.params[f"{name}/linear_1"]
        return self.norm(x @ first["w"] + first["b"], f"{name}/batch_norm") @ last["w"]


def encoder(net, x, depth, width):
    root = f"res_net{depth}/~"
    x = net.conv(x, f"{root}/initial_conv", 64 * width, 7, 2)
    x = net.pool(net.norm(x, f"{root}/initial_batchnorm"))
    for g, blocks in enumerate(BLOCKS[depth]):
        f = 64 * width * 2**g
        for b in range(blocks):
            block = f"{root}/block_group_{g}/~/block_{b}/~"
            stride = 2 if g and not b else 1
            shortcut = x
            if not b:
                shortcut = net.conv(x, f"{block}/shortcut_conv", 4 * f, 1, stride)
                shortcut = net.norm(shortcut, f"{block}/shortcut_batchnorm", False)
            x = net.norm(net.conv(x, f"{block}/conv_0", f, 1), f"{block}/batchnorm_0")
            x = net.conv(x, f"{block}/conv_1", f, 3, stride)
            x = net.norm(x, f"{block}/batchnorm_1")
            x = net.conv(x, f"{block}/conv_2", 4 * f, 1)
            x = net.add(net.norm(x, f"{block}/batchnorm_2", False), shortcut)
    return x


def manifest(depth=50, width=1, hidden=4096, out=256):
    """{field: {module: {name: shape}}} of both branches, which have the same arrays."""
    net = Shapes()
    f = encoder(net, 3, depth, width)
    for name, size in (("projector", f), ("predictor", out)):
        net.params[f"{name}/linear"] = {"w": (size, hidden), "b": (hidden,)}
        net.norm(hidden, f"{name}/batch_norm", axes=1)
        net.params[f"{name}/linear_1"] = {"w": (hidden, out)}
    net.params["classifier"] = {"w": (f, 1000), "b": (1000,)}
    trees = (net.params, net.params, net.state, net.state)
    return dict(zip(BRANCHES, trees, strict=True))


def mapped(function, tree, name=""):
    """A tree of arrays, from the names and shapes of one."""
    if not isinstance(tree, dict):
        return function(name, tree)
    return {key: mapped(function, sub, f"{name}/{key}") for key, sub in tree.items()}


def random(tree, seed=0):
    """Random weights and statistics that keep the size of activations."""
    draw = np.random.default_rng(seed)

    def values(name, shape):
        x = draw.normal(size=shape).astype(np.float32)
        if name.endswith("/w"):
            return x * np.float32(np.prod(shape[:-1]) ** -0.5)
        return np.exp(x / 4) if "scale" in name or "var_ema" in name else x / 4

    return mapped(values, tree)


def zeros(tree):
    """Zeros that use no memory."""
    return mapped(lambda name, shape: np.broadcast_to(np.float32(0), shape), tree)
