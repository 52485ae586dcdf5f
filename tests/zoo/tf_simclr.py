"""SimCLR's networks in TensorFlow, written from the published names of variables.

`trunk` describes the layers; `Names` runs it to list the variables, and `Forward` to
compute.
"""

import collections
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
LEAVES = ("gamma", "beta", "moving_mean", "moving_variance")
OFFSET = 7  # number of the first layer in a SavedModel


class Names:
    """Collects the names and shapes of variables; x is the number of channels.

    naming: "tf1", "tf2" (a checkpoint of TF2) or "saved_model".
    """

    def __init__(self, naming="tf1"):
        self.naming, self.shapes = naming, {}
        self.counts, self.block = collections.Counter(), ""

    def make(self, layer, inner, path, leaves):
        k = self.counts[layer]
        self.counts[layer] += 1
        keras = f"{layer}_{k + OFFSET}"
        if layer == "batch_normalization":
            keras = f"batch_norm_relu_{k + OFFSET}/sync_{keras}"
        elif inner == "/conv2d":
            keras = f"conv2d_fixed_padding_{k + OFFSET}/{keras}"
        root = {
            "tf1": f"base_model/{layer}_{k}" if k else f"base_model/{layer}",
            "tf2": f"model/resnet_model/{path}{inner}",
            "saved_model": f"resnet/{self.block}{keras}",
        }[self.naming]
        self.shapes |= {f"{root}/{leaf}": shape for leaf, shape in leaves.items()}
        return root

    def conv(self, x, at, out, size, stride=1, inner="/conv2d"):
        self.make("conv2d", inner, at, {"kernel": (size, size, x, out)})
        return out

    def norm(self, x, at, relu=True):
        self.make("batch_normalization", "/bn", at, dict.fromkeys(LEAVES, (x,)))
        return x

    def select(self, x, at, f):
        x = self.norm(
            self.conv(x // 2, f"{at}/conv2d_0", max(f // 16, 32), 1, 1, ""),
            f"{at}/batch_norm_relu_1",
        )
        self.conv(x, f"{at}/conv2d_1", 2 * f, 1, 1, "")
        return f

    def add(self, x, shortcut):
        return x

    def pool(self, x, stride=0):
        return x


class Forward(Names):
    """Computes in TensorFlow, from TF1's variables; x is [N, H, W, C]."""

    def __init__(self, arrays):
        super().__init__()
        self.arrays = arrays

    def conv(self, x, at, out, size, stride=1, inner="/conv2d"):
        name = self.make("conv2d", inner, at, {"kernel": ()})
        pad = "SAME"
        if stride > 1:
            x = tf.pad(x, [(0, 0), *[((size - 1) // 2, size // 2)] * 2, (0, 0)])
            pad = "VALID"
        return tf.nn.conv2d(x, self.arrays[f"{name}/kernel"], stride, pad)

    def norm(self, x, at, relu=True):
        x = normalised(x, self.make("batch_normalization", "", at, {}), self.arrays)
        return tf.nn.relu(x) if relu else x

    def select(self, x, at, f):
        streams = tf.stack(tf.split(x, 2, 3))
        y = tf.reduce_mean(tf.reduce_sum(streams, 0), [1, 2], keepdims=True)
        y = self.norm(self.conv(y, at, 0, 1), at)
        y = tf.stack(tf.split(self.conv(y, at, 0, 1), 2, 3))
        return tf.reduce_sum(streams * tf.nn.softmax(y, 0), 0)

    def add(self, x, shortcut):
        return tf.nn.relu(x + shortcut)

    def pool(self, x, stride=0):
        if not stride:
            return tf.nn.max_pool(x, 3, 2, "SAME")
        return tf.nn.avg_pool(x, 2, stride, "SAME")


def normalised(x, name, arrays):
    leaf = lambda leaf: arrays.get(f"{name}/{leaf}")  # noqa: E731
    return tf.nn.batch_normalization(
        x,
        leaf("moving_mean"),
        leaf("moving_variance"),
        leaf("beta"),
        leaf("gamma"),
        1e-5,
    )


def trunk(net, x, depth, width, sk):
    """Runs the layers in the order in which the released code creates them."""
    stem, f = "initial_conv_relu_max_pool", 32 * width
    if sk:
        x = net.norm(net.conv(x, f"{stem}/0", f, 3, 2), f"{stem}/1")
        x = net.norm(net.conv(x, f"{stem}/2", f, 3), f"{stem}/3")
        x = net.norm(net.conv(x, f"{stem}/4", 2 * f, 3), f"{stem}/6")
    else:
        x = net.norm(net.conv(x, f"{stem}/0", 2 * f, 7, 2), f"{stem}/2")
    x, number = net.pool(x), 0
    for g, blocks in enumerate(BLOCKS[depth]):
        for b in range(blocks):
            net.block = f"block_group{g + 1}/bottleneck_block_{number}/"
            x = block(net, x, f"block_groups/{g}/layers/{b}", g, b, width, sk)
            number += 1
    return x


def block(net, x, at, g, b, width, sk):
    stride, f = (2 if g and not b else 1), 64 * width * 2**g
    shortcut, main = x, f"{at}/conv_relu_dropblock_layers"
    if not b:
        first = (2 if g else 1) if sk else 0
        at = f"{at}/projection_layers"
        shortcut = net.pool(x, stride) if sk else x
        shortcut = net.conv(shortcut, f"{at}/{first}", 4 * f, 1, 1 if sk else stride)
        shortcut = net.norm(shortcut, f"{at}/{first + 1}", relu=False)
    x = net.norm(net.conv(x, f"{main}/0", f, 1), f"{main}/1")
    if sk:
        at = f"{main}/3"
        x = net.conv(x, f"{at}/conv2d_fixed_padding", 2 * f, 3, stride)
        x = net.select(net.norm(x, f"{at}/batch_norm_relu"), at, f)
    else:
        x = net.norm(net.conv(x, f"{main}/3", f, 3, stride), f"{main}/4")
    last = 5 if sk else 6
    x = net.norm(net.conv(x, f"{main}/{last}", 4 * f, 1), f"{main}/{last + 1}", False)
    return net.add(x, shortcut)


HEADS = {  # naming: Dense and batch norm of a head's layer, and the classifier
    "tf1": (
        "head_contrastive/nl_{0}/dense",
        "head_contrastive/nl_{0}/batch_normalization",
        "head_supervised/linear_layer/dense",
    ),
    "tf2": (
        "model/_projection_head/linear_layers/{0}/dense",
        "model/_projection_head/linear_layers/{0}/bn_relu/bn",
        "model/supervised_head/linear_layer/dense",
    ),
    "saved_model": (
        "projection_head/nl_{0}/dense_{0}",
        "projection_head/nl_{0}/batch_norm_relu_9{0}/sync_batch_normalization_9{0}",
        "head_supervised/linear_layer/dense_3",
    ),
}


def manifest(depth=50, width=1, sk=False, layers=2, classes=1000, naming="tf1"):
    """{name: shape} of all variables of a network."""
    net, f = Names(naming), 2048 * width
    trunk(net, 3, depth, width, sk)
    shapes = net.shapes
    dense, norm, classifier = HEADS[naming]
    for j in range(layers):
        out = 128 if j == layers - 1 else f
        shapes[f"{dense.format(j)}/kernel"] = (f, out)
        shapes |= {f"{norm.format(j)}/{leaf}": (out,) for leaf in LEAVES}
        if j == layers - 1:
            del shapes[f"{norm.format(j)}/beta"]
    if classes:
        shapes |= {f"{classifier}/kernel": (f, classes)}
        shapes |= {f"{classifier}/bias": (classes,)}
    return shapes


def forward(arrays, x, sk, layers):
    """h, z and logits of a ResNet-50, from TF1's variables and pixels in [0, 1]."""
    net = Forward(arrays)
    h = tf.reduce_mean(trunk(net, tf.constant(x), 50, 1, sk), [1, 2])
    z = h
    for j in range(layers):
        root = f"head_contrastive/nl_{j}"
        z = z @ arrays[f"{root}/dense/kernel"]
        z = normalised(z, f"{root}/batch_normalization", arrays)
        z = tf.nn.relu(z) if j < layers - 1 else z
    root = "head_supervised/linear_layer/dense"
    return h, z, h @ arrays[f"{root}/kernel"] + arrays[f"{root}/bias"]


def random(shapes, seed=0):
    """Random weights and statistics by name, which keep the size of activations."""
    draw = np.random.default_rng(seed)

    def values(name, shape):
        x = draw.normal(size=shape).astype(np.float32)
        if name.endswith("kernel"):
            return x * np.float32(np.prod(shape[:-1]) ** -0.5)
        if name.endswith(("gamma", "variance")):
            return np.exp(x / 4)
        return x / 4

    return {name: values(name, shape) for name, shape in shapes.items()}


def write(prefix, arrays):
    """Writes a checkpoint with exactly these names."""
    names, values = list(arrays), [tf.constant(x) for x in arrays.values()]
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=values,
    )


def write_objects(prefix, arrays, more=None):
    """Writes a checkpoint of TF2 with these paths of objects."""
    objects = trackable_object_graph_pb2.TrackableObjectGraph()
    objects.nodes.add()
    keys = {f"{name}/.ATTRIBUTES/VARIABLE_VALUE": x for name, x in arrays.items()}
    graph = {"_CHECKPOINTABLE_OBJECT_GRAPH": objects.SerializeToString()}
    write(prefix, keys | graph | (more or {}))


def write_model(folder, arrays):
    """Writes a SavedModel whose variables have these names, as the released code."""
    variables = [
        tf.Variable(x, name=name, trainable="moving" not in name)
        for name, x in arrays.items()
    ]
    module: Any = tf.Module()
    model: Any = tf.Module()
    trunk: Any = tf.Module()
    module.model, model.resnet_model = model, trunk
    module.trainable_variables_list = [v for v in variables if v.trainable]
    trunk.weights = variables  # a second path to each
    tf.saved_model.save(module, str(folder))
