"""The papers' linear evaluation against a plain float64 loop, and on real pictures."""

import io
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

from simclr_jax.batch import Batch
from simclr_jax.data.pipeline import eval_batches
from simclr_jax.evaluate import linear_augmented as module
from simclr_jax.evaluate.features import Features, FrozenEncoder, extract
from simclr_jax.evaluate.linear_augmented import linear_augmented
from simclr_jax.sharding import make_mesh

SIDE, CLASSES = 8, 3


def encode(params, stats, images):
    """The mean colour, stretched by a parameter."""
    colour = jnp.mean(images.astype(jnp.float32) / 255, (1, 2))
    return colour * params["stretch"] - stats["mean"]


def h_and_z(h):
    """z is the first two channels."""
    return {"h": h[None], "z": h[None, :, :2]}


ENCODER = FrozenEncoder(
    encode, h_and_z, {"stretch": np.float32(2)}, {"mean": np.float32(1)}
)


class Colours:
    """Noisy pictures whose class is their strongest channel, as PNGs in memory."""

    name, classes, block = "colours/train", CLASSES, 1
    class_names: tuple[str, ...] = ()

    def __init__(self, n, seed):
        rng = np.random.default_rng(seed)
        self.label = rng.integers(0, CLASSES, n).astype(np.int32)
        x = rng.integers(0, 160, (n, SIDE, SIDE, 3))
        x[np.arange(n), :, :, self.label] += 30
        self.data = np.array([png(picture) for picture in x], object)

    def __len__(self):
        return len(self.data)

    def read(self, indices):
        return {"image": self.data[indices], "label": self.label[indices]}

    def describe(self, index):
        return f"picture {index}"


def png(picture):
    file = io.BytesIO()
    matplotlib.image.imsave(file, picture.astype(np.uint8), format="png")
    return file.getvalue()


def features(source, mesh):
    batches = eval_batches(source, size=SIDE, batch_size=16)
    return extract(ENCODER, batches, mesh)


def test_trains_on_real_batches_and_scores_every_test_picture():
    mesh, train = make_mesh(), Colours(72, 0)
    test = features(Colours(45, 1), mesh)
    calls = []
    result = linear_augmented(
        *(ENCODER, train, test, "h", SIDE, mesh),
        lambda done, total: calls.append((done, total)),
        epochs=20,
        batch_size=16,
        lr=20.0,
    )
    assert result["count"] == 45
    assert result["accuracy"] > 0.9
    assert calls == [(i, 91) for i in range(1, 92)]  # floor(72 * 20 / 16) + 1


def plain_loop(batches, feature, lr, weight_decay):
    """Nesterov SGD of momentum 0.9 down half a cosine, in float64."""
    total, width = len(batches), {"h": 3, "z": 2}[feature]
    kernel, bias = np.zeros((width, CLASSES)), np.zeros(CLASSES)
    momentum = [0.0, 0.0]
    for t, batch in enumerate(batches):
        x = 2 * batch.views[0].mean((1, 2)) / 255 - 1
        x = x[:, :width]
        p = np.exp(x @ kernel + bias)
        p = p / p.sum(1, keepdims=True) - np.eye(CLASSES)[batch.label]
        grads = x.T @ p / len(x) + weight_decay * kernel, p.mean(0)
        rate = lr * len(x) / 256 / 2 * (1 + np.cos(np.pi * t / total))
        momentum = [0.9 * m + g for m, g in zip(momentum, grads, strict=True)]
        kernel = kernel - rate * (grads[0] + 0.9 * momentum[0])
        bias = bias - rate * (grads[1] + 0.9 * momentum[1])
    return kernel, bias


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("feature", ["h", "z"])
def test_equals_a_plain_loop(monkeypatch, devices, feature):
    rng = np.random.default_rng(0)
    batches = [
        Batch(
            index=np.arange(16, dtype=np.int32),
            views=(rng.integers(0, 256, (16, SIDE, SIDE, 3)).astype(np.uint8),),
            label=rng.integers(0, CLASSES, 16).astype(np.int32),
        )
        for _ in range(9)
    ]
    arguments = {}

    def fake(source, views, **settings):
        arguments.update(settings, views=views)
        return iter(batches)

    monkeypatch.setattr(module, "train_batches", fake)
    monkeypatch.setattr(module, "score", lambda head, *rest: head)
    head = linear_augmented(
        *(ENCODER, Colours(64, 0), blank(), feature, SIDE),
        make_mesh(jax.devices()[:devices]),
        epochs=2,
        batch_size=16,
        lr=5.0,
        weight_decay=0.05,
        seed=3,
    )
    kernel, bias = plain_loop(batches, feature, 5.0, 0.05)
    np.testing.assert_allclose(head["kernel"], kernel, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(head["bias"], bias, rtol=1e-4, atol=1e-6)
    keys = ("steps", "first_step", "seed")
    assert [arguments[key] for key in keys] == [9, 0, 3]
    (view,) = arguments["views"]
    assert (view.size, view.flip) == (SIDE, 0.5)
    assert view.jitter == view.grey == view.blur == view.solarise == 0


def blank(labels=4):
    h = np.zeros((4, 3), np.float32)
    label = np.zeros(labels, np.int32)
    return Features({"h": h, "z": h[:, :2]}, label, np.arange(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature": "p"}, 'A feature is "h" or "z"'),
        ({"batch_size": 12}, "does not divide by the 8 devices.*batch_size=8"),
        ({"test": blank(labels=0)}, "test split has no labels"),
        (
            {"test": blank()._replace(values={"h": np.full((4, 3), np.nan)})},
            "test features are not",
        ),
        ({"lr": np.inf}, "lr=inf is too high"),
    ],
)
def test_invalid_settings_are_errors(change, message):
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 0.1}
    settings |= {key: x for key, x in change.items() if key in settings}
    test, feature = change.get("test", blank()), change.get("feature", "h")
    arguments = Colours(32, 0), test, feature, SIDE, make_mesh()
    with pytest.raises((ValueError, FloatingPointError), match=message):
        linear_augmented(ENCODER, *arguments, **settings)
