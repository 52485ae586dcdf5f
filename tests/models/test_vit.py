import math
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import sharding
from simclr_jax.experiment import schema
from simclr_jax.models import vit
from simclr_jax.models.catalog import ENCODERS
from simclr_jax.models.positions import resample, sincos
from simclr_jax.tree import paths

DIM, HEADS, PATCH = 8, 2, 4


def shapes(encoder, size=224):
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    variables = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, False), x)
    assert list(variables) == ["params"]
    return variables["params"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def tiny(depth=2, patch=PATCH, **keywords):
    return vit.vit(DIM, depth, HEADS, patch=patch, **keywords)


def pictures(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)


def shaken(params):
    """Parameters of which none is at a special value."""
    random = np.random.default_rng(1)
    return jax.tree.map(
        lambda p: p + 0.4 * random.normal(size=p.shape).astype(np.float32), params
    )


def begin(encoder, size=8):
    x = np.zeros((1, size, size, 3), np.uint8)
    init = jax.jit(encoder.init, static_argnums=2)
    return shaken(init(jax.random.key(0), x, False)["params"])


@partial(jax.jit, static_argnums=0)
def encode(encoder, params, x):
    return encoder.apply({"params": params}, x, False)


@partial(jax.jit, static_argnums=0)
def encode_spatial(encoder, params, x):
    return encoder.apply({"params": params}, x, False, spatial=True)


@partial(jax.jit, static_argnums=0)
def train(encoder, params, x, rng=None):
    rngs = {} if rng is None else {"dropout": rng}
    return encoder.apply({"params": params}, x, True, rngs=rngs)


@partial(jax.jit, static_argnums=0)
def gradient(encoder, params, x, rng=None):
    """Of something that depends on all parameters, in training."""
    return jax.grad(lambda p: jnp.mean(train(encoder, p, x, rng) ** 3))(params)


# Shapes and counts.


@pytest.mark.parametrize(
    ("name", "keywords", "parameters", "width"),
    [
        ("vit_ti", {}, 5_524_416, 192),  # DeiT-Ti's 5_717_416 less 193_000
        ("vit_s", {}, 21_665_664, 384),
        ("vit_s", {"patch": 8}, 21_670_272, 384),
        ("vit_s", {"heads": 12}, 21_665_664, 384),
        ("vit_b", {}, 85_798_656, 768),
    ],
)
def test_published_parameter_counts(name, keywords, parameters, width):
    encoder = ENCODERS[name](**keywords)
    params = shapes(encoder)
    assert count(params) == parameters
    x = jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.uint8)
    h = jax.eval_shape(partial(encode, encoder), params, x)
    assert (h.shape, h.dtype) == ((2, width), jnp.float32)


@pytest.mark.parametrize(
    ("name", "frozen", "everything"),
    [("vit_s", 370_944, 21_665_664), ("vit_b", 741_888, 85_798_656)],
)
def test_moco_v3_freezes_what_it_published(name, frozen, everything):
    encoder = ENCODERS[name](
        positions="sincos", initializer="moco_v3", frozen_patch=True
    )
    params = shapes(encoder)
    positions = sincos(14, 14, encoder.dim).size
    assert "positions" not in params
    assert count(params["patch"]) + positions == frozen
    assert count(params) + positions == everything


def test_parameter_paths():
    params = shapes(tiny(depth=1), 8)
    named = dict(zip(paths(params), jax.tree.leaves(params), strict=True))
    assert {name: leaf.shape for name, leaf in named.items()} == {
        "patch/kernel": (4, 4, 3, 8),
        "patch/bias": (8,),
        "class_token": (1, 1, 8),
        "positions": (1, 5, 8),
        "block0/norm1/scale": (8,),
        "block0/norm1/bias": (8,),
        "block0/attention/qkv/kernel": (8, 24),
        "block0/attention/qkv/bias": (24,),
        "block0/attention/out/kernel": (8, 8),
        "block0/attention/out/bias": (8,),
        "block0/norm2/scale": (8,),
        "block0/norm2/bias": (8,),
        "block0/mlp/dense1/kernel": (8, 32),
        "block0/mlp/dense1/bias": (32,),
        "block0/mlp/dense2/kernel": (32, 8),
        "block0/mlp/dense2/bias": (8,),
        "norm/scale": (8,),
        "norm/bias": (8,),
    }


def test_a_config_has_the_keywords_and_not_the_sizes():
    keys = (
        "name patch heads positions initializer frozen_patch drop_path dtype mean std"
    )
    assert sorted(schema.section("encoder", "vit_s")) == sorted(keys.split())
    assert schema.section("encoder", "vit_mini").patch == 4


# Against the definition, in float64.


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def norm(p, x):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def attend(p, x):
    """One picture, [T, D] -> [T, D] and the weights [heads, T, T], head by head."""
    width = DIM // HEADS
    q, k, v = np.split(dense(p["qkv"], x), 3, axis=-1)
    y, weights = [], []
    for head in range(HEADS):
        own = slice(head * width, (head + 1) * width)
        weights.append(softmax(q[:, own] @ k[:, own].T / math.sqrt(width)))
        y.append(weights[-1] @ v[:, own])
    return dense(p["out"], np.concatenate(y, -1)), np.stack(weights)


def by_hand(params, image, positions, depth=2) -> tuple[np.ndarray, Any]:
    """The last tokens [1 + T, D] of a picture [H, W, 3], and the attention."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    tokens = [p["class_token"][0, 0]]
    for row in range(0, image.shape[0], PATCH):
        for column in range(0, image.shape[1], PATCH):
            cut = image[row : row + PATCH, column : column + PATCH]
            tokens.append(np.tensordot(cut, p["patch"]["kernel"], 3))
            tokens[-1] += p["patch"]["bias"]
    x, weights = np.stack(tokens) + positions, None
    for i in range(depth):
        block = p[f"block{i}"]
        y, weights = attend(block["attention"], norm(block["norm1"], x))
        x = x + y
        y = gelu(dense(block["mlp"]["dense1"], norm(block["norm2"], x)))
        x = x + dense(block["mlp"]["dense2"], y)
    return norm(p["norm"], x), weights


@pytest.mark.parametrize(
    ("kind", "height", "width"),
    [("learned", 8, 8), ("learned", 12, 16), ("sincos", 12, 16)],
)
def test_h_and_attention_agree_with_their_definition(kind, height, width):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    encoder = tiny(positions=kind, mean=mean, std=std)
    params, x = begin(encoder), pictures(2, height, width)
    if kind == "sincos":
        positions = sincos(height // PATCH, width // PATCH, DIM)
    else:
        grid = height // PATCH, width // PATCH
        positions = resample(params["positions"], *grid)[0]
    images = (x / 255 - mean) / std
    h, spatial = encode_spatial(encoder, params, x)
    np.testing.assert_array_equal(h, encode(encoder, params, x))
    grid = height // PATCH, width // PATCH
    assert spatial.attention.shape == (2, HEADS, *grid)
    assert spatial.features.shape == (2, *grid, DIM)
    for i, image in enumerate(images):
        tokens, weights = by_hand(params, image, positions)
        np.testing.assert_allclose(h[i], tokens[0], atol=1e-4)
        patches = spatial.features[i].reshape(-1, DIM)
        np.testing.assert_allclose(patches, tokens[1:], atol=1e-4)
        seen = spatial.attention[i].reshape(HEADS, -1)
        np.testing.assert_allclose(seen, weights[:, 0, 1:], atol=1e-4)


def test_bytes_and_floats_are_the_same_pictures():
    encoder, x = tiny(), pictures(3, 8, 8)
    params = begin(encoder)
    h = encode(encoder, params, x)
    same = encode(encoder, params, (x / 255).astype(np.float32))
    np.testing.assert_allclose(h, same, rtol=1e-5, atol=1e-5)


def test_other_sizes_teach_the_same_positions():
    encoder = tiny(depth=1)
    params = begin(encoder, size=12)
    teaching = gradient(encoder, params, pictures(2, 8, 8))["positions"]
    assert teaching.shape == (1, 10, DIM)
    assert np.all(np.abs(teaching).max((0, 2)) > 0)  # every position of the old grid


# What training alone does.


def test_a_frozen_patch_projection_gets_no_gradient():
    frozen, free = tiny(depth=1, frozen_patch=True), tiny(depth=1)
    params, x = begin(free), pictures(2, 8, 8)
    held, moved = (gradient(encoder, params, x) for encoder in (frozen, free))
    assert all(not leaf.any() for leaf in jax.tree.leaves(held.pop("patch")))
    assert all(leaf.any() for leaf in jax.tree.leaves(moved.pop("patch")))
    jax.tree.map(np.testing.assert_array_equal, held, moved)


def silence(params, spared):
    """Zeroes what every branch adds, but for the attention of one block."""
    params = jax.tree.map(jnp.asarray, params)
    for name in [name for name in params if name.startswith("block")]:
        block = params[name]
        ends = [block["mlp"]["dense2"]]
        ends += [block["attention"]["out"]] if name != spared else []
        for end in ends:
            end |= jax.tree.map(jnp.zeros_like, end)
    return params


def test_paths_are_dropped_by_image_and_ever_more_often():
    encoder, n = tiny(depth=3, drop_path=0.5), 4096
    params = begin(encoder)
    x = np.broadcast_to(pictures(1, 8, 8), (n, 8, 8, 3))
    without = train(encoder, silence(params, "none"), x[:1])
    for block, rate in [("block0", 0.0), ("block1", 0.25), ("block2", 0.5)]:
        h = train(encoder, silence(params, block), x, jax.random.key(3))
        dropped = np.abs(h - without).max(-1) < 1e-5
        assert np.ptp(h[~dropped], axis=0).max() < 1e-4  # all or nothing
        assert dropped.mean() == pytest.approx(rate, abs=0.03 if rate else 0)


def test_without_a_key_nothing_is_dropped():
    encoder, x = tiny(drop_path=0.9), pictures(16, 8, 8)  # in the second block
    params = begin(encoder)
    full = encode(encoder, params, x)
    np.testing.assert_array_equal(train(encoder, params, x), full)
    keyed = {"dropout": jax.random.key(0)}
    evaluate = jax.jit(encoder.apply, static_argnums=2)
    evaluated = evaluate({"params": params}, x, False, rngs=keyed)
    np.testing.assert_array_equal(evaluated, full)
    assert np.abs(train(encoder, params, x, keyed["dropout"]) - full).max() > 0.1


# How it starts.


def test_dino_starts():
    encoder = vit.vit(384, 1, 6, patch=8)
    params = jax.jit(encoder.init, static_argnums=2)(
        jax.random.key(0), np.zeros((1, 64, 64, 3), np.uint8), False
    )["params"]
    attention, mlp = params["block0"]["attention"], params["block0"]["mlp"]
    normals = [attention["qkv"], attention["out"], mlp["dense1"], mlp["dense2"]]
    for normal in [*(layer["kernel"] for layer in normals), params["positions"]]:
        assert np.std(normal) == pytest.approx(0.02, rel=0.02)
        assert np.abs(normal).max() > 0.06  # not cut off
    assert np.std(params["class_token"]) == pytest.approx(0.02, rel=0.15)
    assert all(not layer["bias"].any() for layer in normals)
    for leaf in jax.tree.leaves(params["patch"]):  # bias too, as PyTorch's
        assert 0.99 / math.sqrt(192) < np.abs(leaf).max() < 1 / math.sqrt(192)
        assert np.std(leaf) == pytest.approx(1 / 24, rel=0.06)  # 1 / sqrt(3 * 192)


def test_moco_v3_starts():
    encoder = vit.vit(192, 1, 3, initializer="moco_v3", positions="sincos")
    params = jax.jit(encoder.init, static_argnums=2)(
        jax.random.key(0), np.zeros((1, 32, 32, 3), np.uint8), False
    )["params"]
    attention, mlp = params["block0"]["attention"], params["block0"]["mlp"]
    for layer, fans in [
        (attention["qkv"], 192 + 192),  # q, k and v each, not 192 + 3 * 192
        (attention["out"], 192 + 192),
        (mlp["dense1"], 192 + 768),
        (mlp["dense2"], 768 + 192),
        (params["patch"], 3 * 16 * 16 + 192),
    ]:
        bound = math.sqrt(6 / fans)
        assert 0.99 * bound < np.abs(layer["kernel"]).max() < bound
        assert np.std(layer["kernel"]) == pytest.approx(bound / 3**0.5, rel=0.02)
        assert not layer["bias"].any()
    assert np.std(params["class_token"]) == pytest.approx(1e-6, rel=0.2)


# Numbers and places.


def test_bfloat16_keeps_what_lasts_in_float32():
    encoder, x = tiny(depth=1, dtype="bfloat16"), pictures(16, 8, 8)
    params = begin(encoder)
    h, exact = train(encoder, params, x), train(tiny(depth=1), params, x)
    maps = encode_spatial(encoder, params, x)[1]
    kept = jax.tree.leaves((h, params, gradient(encoder, params, x), maps))
    assert {leaf.dtype for leaf in kept} == {jnp.dtype("float32")}
    assert 1e-4 < np.abs(h - exact).max() / np.abs(exact).max() < 0.05


def test_softmax_and_norms_are_float32_in_bfloat16():
    encoder, x = tiny(dtype="bfloat16", depth=1), pictures(2, 8, 8)
    text = str(jax.make_jaxpr(partial(encode, encoder))(begin(encoder), x))
    for word in ("exp", "rsqrt"):
        kinds = set(re.findall(rf":(\w+)\[[\d,]*\] = {word}\b", text))
        assert kinds == {"f32"}


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-4), ("bfloat16", 0.01)])
def test_a_mesh_changes_nothing_and_moves_no_images(dtype, close):
    encoder, x = tiny(dtype=dtype, drop_path=0.3), pictures(16, 8, 8)
    params, rng = begin(encoder), jax.random.key(7)
    placed = jax.device_put(x, sharding.by_batch(sharding.make_mesh()))
    text = str(gradient.lower(encoder, params, placed, rng).compile().as_text())
    assert not re.findall(r"all-gather|all-to-all|collective-permute", text)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=close),
        gradient(encoder, params, placed, rng),
        gradient(encoder, params, x, rng),
    )


# Mistakes.


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("vit_s", {"positions": "fixed"}, r"positions = 'fixed'.*'learned', 'sincos'"),
        ("vit_s", {"initializer": "timm"}, r"initializer = 'timm'.*'dino', 'moco_v3'"),
        ("vit_s", {"dtype": "float16"}, r"dtype = 'float16'.*'bfloat16'"),
        ("vit_s", {"patch": 0}, "patch = 0"),
        ("vit_s", {"heads": -1}, "heads = -1"),
        ("vit_s", {"heads": 7}, "heads = 7 does not divide the width of 384"),
        ("vit_s", {"drop_path": 1.0}, r"drop_path in \[0, 1\).*drop_path = 1.0"),
        ("vit_mini", {"drop_path": -0.1}, "drop_path = -0.1"),
        ("vit_mini", {"std": (0.0, 1.0, 1.0)}, "std above 0"),
    ],
)
def test_wrong_words(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        ENCODERS[name](**keywords)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 30, 32, 3), "Patches of 4x4 do not divide pictures of 30x32"),
        (
            (1, 8, 16, 3),
            "initialised on a square grid; these pictures have 2x4 patches",
        ),
    ],
)
def test_pictures_that_do_not_fit(shape, message):
    x = jax.ShapeDtypeStruct(shape, jnp.uint8)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: tiny().init(jax.random.key(0), x, False), x)
