import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import sharding
from simclr_jax.models import resnet
from simclr_jax.models.catalog import ENCODERS
from simclr_jax.models.norm import BatchNorm
from simclr_jax.models.pooling import average_pool
from tests.tools import convolve_by_hand

SK = 0.0625


def shapes(encoder, size=224):
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    return jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, False), x)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "keywords", "everything", "trainable"),
    [
        ("resnet18", {"stem": "cifar"}, 11_182_784, 11_173_056),
        ("resnet50", {}, 23_561_152, 23_508_032),
        ("resnet50", {"sk_ratio": SK}, 35_277_408, 35_215_584),
        ("resnet50", {"width": 2}, 94_013_312, 93_907_072),
        ("resnet50", {"width": 2, "sk_ratio": SK}, 140_428_864, 140_306_048),
        ("resnet50", {"width": 4}, 375_590_656, 375_378_176),
        ("resnet101", {}, 42_605_504, 42_500_160),
        ("resnet101", {"sk_ratio": SK}, 64_786_144, 64_662_304),
        ("resnet101", {"width": 2}, 169_981_824, 169_771_136),
        ("resnet101", {"width": 2, "sk_ratio": SK}, 257_377_984, 257_132_224),
        ("resnet152", {}, 58_295_232, 58_143_808),
        ("resnet152", {"sk_ratio": SK}, 89_119_584, 88_940_896),
        ("resnet152", {"width": 2}, 232_556_416, 232_253_568),
        ("resnet152", {"width": 2, "sk_ratio": SK}, 353_752_896, 353_398_528),
        ("resnet152", {"width": 3, "sk_ratio": SK}, 795_235_360, 794_704_160),
        ("resnet200", {"width": 2}, 250_480_512, 250_128_512),
    ],
)
def test_published_parameter_counts(name, keywords, everything, trainable):
    variables = shapes(ENCODERS[name](**keywords))
    assert (count(variables), count(variables["params"])) == (everything, trainable)


@pytest.mark.parametrize("sk_ratio", [0.0, SK])
def test_shapes_of_resnet50_at_224(sk_ratio):
    encoder = resnet.resnet50(sk_ratio=sk_ratio)
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.uint8)

    def run(x):
        return encoder.init_with_output(
            jax.random.key(0), x, False, capture_intermediates=True
        )

    h, variables = jax.eval_shape(run, x)
    assert (h.shape, h.dtype) == ((2, 2048), jnp.float32)
    seen = variables["intermediates"]
    assert seen["conv1"]["__call__"][0].shape == (2, 112, 112, 32 if sk_ratio else 64)
    groups = [f"layer{g}_{b}" for g, b in ((1, 2), (2, 3), (3, 5), (4, 2))]
    assert [seen[name]["__call__"][0].shape[1:] for name in groups] == [
        (56, 56, 256),
        (28, 28, 512),
        (14, 14, 1024),
        (7, 7, 2048),
    ]
    middle = seen["layer2_0"]["conv1"]["__call__"][0]
    assert middle.shape[1:] == (56, 56, 128)  # the stride is on the 3x3


def test_max_pool_padding():
    rows = jnp.broadcast_to(jnp.arange(8.0)[:, None, None], (1, 8, 8, 1))
    assert resnet.max_pool(rows, "same")[0, :, 0, 0].tolist() == [2, 4, 6, 7]
    assert resnet.max_pool(rows, "torch")[0, :, 0, 0].tolist() == [1, 3, 5, 7]


def test_average_pool_does_not_count_padding():
    ones = jnp.ones((1, 4, 4, 1))
    np.testing.assert_array_equal(average_pool(ones, 1), ones)
    ramp = jnp.arange(16.0).reshape(1, 4, 4, 1)
    pooled = average_pool(ramp, 2).ravel()
    assert pooled.tolist() == [2.5, 4.5, 10.5, 12.5]


def test_kernels_start_as_published():
    x = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    encoder = resnet.resnet10(channels=64, stem="imagenet")
    key = jax.random.key(0)
    params = jax.jit(encoder.init, static_argnums=2)(key, x, False)["params"]
    for kernel, std in [
        (params["conv1"]["kernel"], 0.0824786),  # 7x7x3
        (params["layer1_0"]["conv1"]["kernel"], 0.0416667),  # 3x3x64
    ]:
        assert np.std(kernel) == pytest.approx(std, rel=0.02)
        assert np.abs(kernel).max() <= 2.2737 * std


@pytest.mark.parametrize("bottleneck", [True, False])
def test_a_block_starts_as_its_shortcut(bottleneck):
    x = jax.random.normal(jax.random.key(1), (4, 6, 6, 16))
    norm = partial(BatchNorm)
    filters = 4 if bottleneck else 16
    block = resnet.Block(filters, 1, False, bottleneck, 0.0, True, resnet.Conv, norm)
    variables = block.init(jax.random.key(0), x, False)
    y, _ = block.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def normalise(x, norm):
    axes = tuple(range(x.ndim - 1))
    x = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)
    return x * norm["scale"] + norm["bias"]


def bottleneck_by_hand(p, x, stride, selective):
    """One projected bottleneck in training, step by step in float64."""

    def relu(x):
        return np.maximum(x, 0)

    def conv(name, x, stride=1):
        return convolve_by_hand(x, p[name]["kernel"], stride)

    short, short_stride = x, stride
    if selective:
        n, h, w, c = x.shape
        short, short_stride = x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4)), 1
    short = normalise(conv("shortcut_conv", short, short_stride), p["shortcut_bn"])
    y = relu(normalise(conv("conv1", x), p["bn1"]))
    y = relu(normalise(conv("conv2", y, stride), p["bn2"]))
    if selective:
        first, second = np.split(y, 2, axis=-1)
        mean = (first + second).mean((1, 2), keepdims=True)
        mixing = relu(normalise(conv("squeeze_conv", mean), p["squeeze_bn"]))
        a, b = np.split(conv("excite_conv", mixing), 2, axis=-1)
        share = 1 / (1 + np.exp(b - a))  # a softmax over two
        y = share * first + (1 - share) * second
    return relu(short + normalise(conv("conv3", y), p["bn3"]))


@pytest.mark.parametrize("sk_ratio", [0.0, SK])
def test_a_bottleneck_agrees_with_its_definition(sk_ratio):
    x = jax.random.normal(jax.random.key(1), (6, 8, 8, 5))
    norm = partial(BatchNorm)
    block = resnet.Block(4, 2, True, True, sk_ratio, True, resnet.Conv, norm)
    variables = block.init(jax.random.key(0), x, False)
    keys = iter(jax.random.split(jax.random.key(2), 99))
    params = jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(next(keys), p.shape), variables["params"]
    )
    variables = {**variables, "params": params}
    y, _ = block.apply(variables, x, True, mutable=["batch_stats"])
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    expected = bottleneck_by_hand(params, np.asarray(x, np.float64), 2, bool(sk_ratio))
    np.testing.assert_allclose(y, expected, atol=2e-4)


def small(**keywords):
    encoder = resnet.resnet10(channels=8, **keywords)
    x = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3)).astype(np.uint8)
    init = jax.jit(encoder.init, static_argnums=2)
    return encoder, x, init(jax.random.key(0), x[:1], False)


@partial(jax.jit, static_argnums=0)
def forward(encoder, variables, x):
    return encoder.apply(variables, x, True, mutable=["batch_stats"])


@partial(jax.jit, static_argnums=0)
def encode(encoder, variables, x):
    return encoder.apply(variables, x, False)


def test_the_last_feature_map_has_the_mean_h():
    """Of pictures that are not square, too."""
    encoder: Any = resnet.resnet10(channels=2, stem="cifar")
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 16, 3)).astype(np.uint8)
    variables = jax.jit(encoder.init, static_argnums=2)(jax.random.key(0), x, False)
    apply = partial(encoder.apply, train=False, spatial=True)
    h, spatial = jax.jit(apply)(variables, x)
    assert spatial.attention is None
    assert spatial.features.shape == (2, 4, 2, encoder.width)
    np.testing.assert_allclose(spatial.features.mean((1, 2)), h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stem", resnet.STEMS)
def test_bytes_and_floats_are_the_same_pictures(stem):
    encoder, x, variables = small(stem=stem)
    h = encode(encoder, variables, x)
    same = encode(encoder, variables, (x / 255).astype(np.float32))
    assert (h.shape, h.dtype) == ((16, 64), jnp.float32)
    np.testing.assert_allclose(h, same, rtol=1e-4, atol=1e-6)


def test_mean_and_std_of_the_pixels():
    encoder, x, variables = small(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    plain, _, _ = small()
    scaled = (x / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    h = encode(encoder, variables, x)
    same = encode(plain, variables, scaled.astype(np.float32))
    np.testing.assert_allclose(h, same, rtol=1e-4, atol=1e-5)


def test_bfloat16_keeps_what_lasts_in_float32():
    encoder, x, variables = small(dtype="bfloat16")
    full, _, same = small()
    jax.tree.map(np.testing.assert_array_equal, variables, same)
    h, new = forward(encoder, variables, x)
    exact, stats = forward(full, variables, x)
    kept = jax.tree.leaves((h, new, variables))
    assert {leaf.dtype for leaf in kept} == {jnp.dtype("float32")}
    assert 1e-4 < np.abs(h - exact).max() / np.abs(exact).max() < 0.05
    close = jax.tree.map(lambda a, b: np.allclose(a, b, atol=0.02), new, stats)
    assert all(jax.tree.leaves(close))


@pytest.mark.parametrize("groups", [1, 16])
def test_a_mesh_changes_nothing_and_moves_no_images(groups):
    encoder, x, variables = small(bn_group=16 // groups)
    params, stats = variables["params"], variables["batch_stats"]

    def loss(params, x):
        h, new = forward(encoder, {"params": params, "batch_stats": stats}, x)
        return jnp.mean(h**2), new

    step = jax.jit(jax.grad(loss, has_aux=True))
    placed = jax.device_put(x, sharding.by_batch(sharding.make_mesh()))
    text = str(step.lower(params, placed).compile().as_text())
    assert not re.findall(r"all-gather|all-to-all|collective-permute", text)
    if groups == 16:  # batch norm is local: only the gradient crosses devices
        assert len(re.findall(r"all-reduce(?:-start)?\(", text)) == 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
        step(params, placed),
        step(params, x),
    )


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("resnet50", {"stem": "imgnet"}, r"stem = 'imgnet'.*'imagenet', 'cifar'"),
        ("resnet50", {"pool_padding": "tf"}, r"pool_padding = 'tf'.*'same', 'torch'"),
        ("resnet50", {"dtype": "float16"}, r"dtype = 'float16'.*'bfloat16'"),
        ("resnet50", {"width": 0}, "width = 0"),
        ("resnet18", {"sk_ratio": SK}, "ResNet-18 has basic blocks"),
        ("resnet10", {"stem": "large"}, "stem = 'large'"),
        ("resnet10", {"channels": 0}, "channels = 0"),
        ("resnet10", {"bn_group": -1}, "bn_group = -1"),
        ("resnet50", {"bn_group": -1}, "bn_group = -1"),
        ("resnet10", {"dtype": "half"}, "dtype = 'half'"),
    ],
)
def test_wrong_words(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        ENCODERS[name](**keywords)
