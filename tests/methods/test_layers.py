"""Any layer of a frozen network as a feature, against layers that are run by hand."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from simclr_jax.batch import Batch
from simclr_jax.evaluate.features import FrozenEncoder, extract
from simclr_jax.methods.byol import byol
from simclr_jax.methods.layers import layer_names, select, token_blocks
from simclr_jax.models import vit
from simclr_jax.sharding import make_mesh
from tests.tools import METHOD_WIDTHS, Tiny, small_method


def compute(functions, params, stats, x) -> dict[str, np.ndarray]:
    """The features by functions as from `select`, without the axis of views."""
    encode, features = functions
    y: Any = jax.jit(lambda *arrays: features(encode(*arrays)))(params, stats, x)
    return {name: np.asarray(value[0]) for name, value in y.items()}


def noisy(method, side=8):
    """Parameters and statistics, all different, of the online network."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (6, side, side, 3)).astype(np.uint8)
    views = [pictures, pictures]
    state = jax.eval_shape(method.init, jax.random.key(0), views)
    noise = lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32)  # noqa: E731
    params, stats = method.kept(state)
    return jax.tree.map(noise, params), jax.tree.map(noise, stats), pictures


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("simclr", ("head1",)),
        ("simsiam", ("head1", "head2")),
        ("dino", ("head1", "head2")),
        ("mocov3", ("head1",)),
    ],
)
def test_layers_of_the_head(name, heads):
    method = small_method(name, probe=False)
    assert layer_names(method.network) == heads
    params, stats, x = noisy(method)
    y = compute(select(method, ("h", *heads, "z")), params, stats, x)
    assert list(y) == ["h", *heads, "z"]
    usual = compute((method.network.encode, method.features), params, stats, x)
    np.testing.assert_allclose(y["h"], usual["h"], rtol=1e-6)
    np.testing.assert_allclose(y["z"], usual["z"], rtol=1e-5)
    # The next layer of the head, by hand, gives the next feature.
    last = method.network.head_layers
    dense = params["projector"][f"dense{last}"]
    z = y[heads[-1]].astype(np.float64) @ dense["kernel"] + dense.get("bias", 0)
    if norm := stats.get("projector", {}).get(f"bn{last}"):
        z = (z - norm["mean"]) / np.sqrt(norm["var"] + 1e-5)
        scale = params["projector"].get(f"bn{last}", {})
        z = z * scale.get("scale", 1) + scale.get("bias", 0)
    if name == "dino":
        z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    np.testing.assert_allclose(y["z"], z, rtol=1e-3, atol=1e-4)


def test_tokens_of_a_transformer():
    encoder = vit.vit(16, 3, 2, patch=4)
    method = byol(encoder, **METHOD_WIDTHS["byol"])
    names = layer_names(method.network)
    assert names == ("head1", "cls", "patch", "cls_patch", "cls2", "cls3")
    params, stats, x = noisy(method)
    y = compute(select(method, names), params, stats, x)
    encode = jax.jit(partial(method.network.encode, token_blocks=(0, 1, 2)))
    outputs = encode(params, stats, x)
    tokens = [outputs.tokens[i] for i in range(3)]
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    close(y["cls"], outputs.h[0])
    close(y["patch"], np.asarray(tokens[2].patches[0]).mean(1))
    close(y["cls3"], np.concatenate([t.class_token[0] for t in tokens], 1))
    close(y["cls2"], y["cls3"][:, 16:])
    # DINO's order: one number of the class token, one of the mean, and so on.
    close(y["cls_patch"][:, 0::2], y["cls"])
    close(y["cls_patch"][:, 1::2], y["patch"])


def test_only_the_blocks_of_a_feature_are_requested():
    blocks = {name: token_blocks(name, 12) for name in ("h", "z", "head1", "cls4")}
    assert blocks == {"h": (), "z": (), "head1": (), "cls4": (8, 9, 10, 11)}
    encode, _ = select(small_method("simclr", probe=False), ("h",))
    assert (encode.token_blocks, encode.head_layers) == ((), ())


def test_a_selection_is_compiled_once():
    method = small_method("simclr", probe=False)
    assert select(method, ("head1",)) == select(method, ("head1",))
    assert hash(select(method, ("head1",))) == hash(select(method, ("head1",)))
    assert select(method, ("head1",)) != select(method, ("h",))


def test_a_plain_encoder_has_no_tokens():
    assert small_method("simclr", encoder=Tiny()).network.blocks == 0


@pytest.mark.parametrize("name", ["simclr", "simsiam"])
def test_features_do_not_depend_on_the_other_pictures_of_a_batch(name):
    """Batch norm has the statistics of the training, in the encoder and the head."""
    method = small_method(name, probe=False)
    params, stats, x = noisy(method)
    assert jax.tree.leaves(stats["encoder"])
    assert jax.tree.leaves(stats["projector"])
    rng = np.random.default_rng(1)
    bright = np.full_like(x, 255) - rng.integers(0, 9, x.shape).astype(np.uint8)
    names = ("h", *layer_names(method.network), "z")
    encoder = FrozenEncoder(*select(method, names), params, stats)
    mesh = make_mesh(jax.devices()[:1])

    def features(pictures, rows):
        parts = [pictures[i : i + rows] for i in range(0, len(pictures), rows)]
        batches = (
            Batch(
                index=np.arange(rows, dtype=np.int32) + rows * i,
                valid=np.ones(rows, bool),
                views=(part,),
            )
            for i, part in enumerate(parts)
        )
        return extract(encoder, batches, mesh).values

    alone = features(x, 1)
    pairs = np.stack([x, bright], 1).reshape(-1, *x.shape[1:])
    among = features(pairs, 4)  # two bright pictures in every batch
    backwards = features(np.concatenate([bright, x[::-1]]), 12)
    for name in names:
        np.testing.assert_allclose(among[name][::2], alone[name], rtol=1e-4, atol=1e-5)
        last = backwards[name][6:][::-1]
        np.testing.assert_allclose(last, alone[name], rtol=1e-4, atol=1e-5)
    # In training mode they do depend on it, so that the test could fail.
    for other in (x, bright):
        apply = jax.jit(method.network.apply)
        y, _ = apply(params, stats, [np.concatenate([x, other])])
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(y.h[0, :6], alone["h"], rtol=1e-2)
