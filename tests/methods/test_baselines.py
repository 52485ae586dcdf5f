"""The supervised network and the autoencoder, with the decoders of its encoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.batch import Batch
from simclr_jax.experiment import build, config
from simclr_jax.methods.autoencoder import autoencoder
from simclr_jax.methods.supervised import supervised
from simclr_jax.models.catalog import ENCODERS
from simclr_jax.models.resnet_decoder import repeat_pixels
from simclr_jax.models.transformer import INITIALIZERS
from simclr_jax.models.vit import Patches
from simclr_jax.models.vit_decoder import joined_patches
from tests.tools import CLASSES, Tiny, small_batch


def evaluated(method, batch):
    """(loss, outputs, metrics) of the initial state."""
    state = method.init(jax.random.key(0), batch.views)
    loss, (_, y, metrics) = method.loss(
        state.params, state.for_loss(), batch, state.rng
    )
    return loss, y, metrics


def mean_cross_entropy(logits, label):
    """Of every view, in float64."""
    x = np.float64(logits)
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return -np.mean([[row[c] for row, c in zip(v, label, strict=True)] for v in log_p])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_supervised_is_the_cross_entropy_of_all_views(count):
    batch = small_batch(16)
    batch = batch.replace(views=(batch.views * 2)[:count])
    loss, y, metrics = evaluated(supervised(Tiny(), classes=CLASSES), batch)
    logits = np.asarray(y.heads["projector"])
    assert logits.shape == (count, 16, CLASSES)
    np.testing.assert_allclose(loss, mean_cross_entropy(logits, batch.label), rtol=1e-5)
    assert metrics["accuracy"] == np.mean(logits.argmax(-1) == batch.label)


def test_labels_train_the_encoder_and_another_label_another_way():
    method, batch = supervised(Tiny(), classes=CLASSES), small_batch(16)
    state = method.init(jax.random.key(0), batch.views)

    @jax.jit
    def gradient(label):
        def loss(params):
            other = batch.replace(label=label)
            return method.loss(params, state.for_loss(), other, state.rng)[0]

        return jax.grad(loss)(state.params)["encoder"]["conv1"]["kernel"]

    one, other = gradient(batch.label), gradient(batch.label[::-1])
    assert np.abs(one).max() > 0
    assert np.abs(one - other).max() > 0


def test_supervised_needs_labels():
    c = config.load("configs/supervised_quickstart.py")
    assert build.build_method(c, images=5000, classes=10)
    with pytest.raises(ValueError, match="supervised needs labels, and this data set"):
        build.build_method(c, images=5000, classes=0)
    with pytest.raises(ValueError, match=r"label_smoothing must be from 0 to 1, got 2"):
        supervised(Tiny(), classes=3, label_smoothing=2.0)


@pytest.mark.parametrize("floating", [False, True])
def test_the_autoencoder_is_judged_by_its_pixels(floating):
    batch = small_batch(8)
    exact = np.stack(batch.views) / 255
    if floating:
        batch = batch.replace(views=tuple(np.float32(x) / 255 for x in batch.views))
    method = autoencoder(Tiny(), size=8)
    loss, y, _ = evaluated(method, batch)
    drawn = np.float64(y.heads["projector"])
    np.testing.assert_allclose(loss, ((drawn - exact) ** 2).mean(), rtol=1e-5)
    assert set(method.features(y)) == {"h"}


def test_what_the_autoencoder_cannot_draw():
    views = small_batch(4, side=12).views
    with pytest.raises(ValueError, match=r"views of 8 x 8 pixels.* one of 12 x 12"):
        evaluated(autoencoder(Tiny(), size=8), Batch(views=views))
    with pytest.raises(
        ValueError, match=r"method decoder\(size\), and object has none"
    ):
        autoencoder(object(), size=8)


DECODED = (  # encoder, keywords, side of the pictures
    ("resnet10", {"channels": 4, "stem": "small"}, 32),
    ("resnet10", {"channels": 4, "stem": "cifar"}, 20),
    ("resnet50", {}, 224),
    ("resnet50", {"sk_ratio": 0.0625, "stem": "cifar"}, 65),
    ("vit_mini", {}, 32),
    ("vit_s", {"positions": "sincos"}, 224),
)


@pytest.mark.parametrize(("name", "keywords", "side"), DECODED)
def test_a_decoder_makes_pictures_of_h_with_about_as_many_weights(name, keywords, side):
    encoder = ENCODERS[name](**keywords)
    x = jax.ShapeDtypeStruct((2, side, side, 3), jnp.uint8)
    key = jax.random.key(0)
    h, variables = jax.eval_shape(
        lambda x: encoder.init_with_output(key, x, train=False), x
    )
    picture, decoder = jax.eval_shape(
        lambda h: encoder.decoder(side).init_with_output(key, h, train=False), h
    )
    assert picture.shape == x.shape
    assert picture.dtype == jnp.float32
    sizes = [sum(x.size for x in jax.tree.leaves(t)) for t in (variables, decoder)]
    share = 0.75 if "vit" in name else 0.4  # of selective kernels and narrow blocks
    assert share < sizes[1] / sizes[0] < 1.3


def test_positions_are_drawn_apart():
    """From one h; and the pixels have the encoder's mean and deviation."""
    encoder = ENCODERS["vit_mini"](mean=(9.0,) * 3, std=(0.1,) * 3)
    decoder = encoder.decoder(16)
    h = jnp.ones((1, encoder.width))
    params = decoder.init(jax.random.key(0), h, train=False)
    x = np.asarray(decoder.apply(params, h, train=False))[0]
    patches = x.reshape(4, 4, 4, 4, 3).swapaxes(1, 2).reshape(16, -1)
    assert len(np.unique(patches.round(5), axis=0)) == 16
    assert np.abs(x - 9).max() < 1


def test_patches_are_joined_as_they_are_cut():
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    cut = Patches(48, 4, INITIALIZERS["dino"], frozen=False)
    identity = {"kernel": np.eye(48).reshape(4, 4, 3, 48), "bias": np.zeros(48)}
    identity = jax.tree.map(np.float32, identity)
    patches = cut.apply({"params": identity}, x)
    np.testing.assert_array_equal(joined_patches(jnp.asarray(patches), 4), x)


@pytest.mark.parametrize("side", [5, 6])
def test_a_repeated_pixel_lies_where_its_stride_took_it(side):
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)
    repeated = repeat_pixels(jnp.asarray(x), side)
    assert repeated.shape == (2, side, side, 4)
    np.testing.assert_array_equal(repeated[:, ::2, ::2], x)
    np.testing.assert_array_equal(
        repeated[:, 1::2, 1::2], x[:, : side // 2, : side // 2]
    )
