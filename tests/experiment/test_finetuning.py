"""Fine-tuning against a plain loop; which arrays it trains; invalid arguments."""

import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.data.arrays import Arrays
from simclr_jax.evaluate import finetune as module
from simclr_jax.evaluate.finetune import Task, finetune, initial_state, make_step
from simclr_jax.experiment.finetuning import shortened
from simclr_jax.sharding import make_mesh
from simclr_jax.train.schedules import warmup_cosine
from simclr_jax.tree import by_path, paths
from tests.tools import Tiny, small_batch, small_method

SIDE, CLASSES, STEPS = 8, 10, 5
HEAD = ("projector/dense1/kernel", "projector/bn1/scale", "projector/bn1/bias")
ENCODER = ("encoder/conv1/kernel", "encoder/bn1/scale", "encoder/bn1/bias")
CLASSIFIER = ("classifier/kernel", "classifier/bias")


@pytest.fixture(scope="module")
def run() -> Any:
    """A small SimCLR with a probe."""
    method = small_method("simclr")
    state = jax.jit(method.init)(jax.random.key(0), small_batch().views)
    return types.SimpleNamespace(method=method), state


def up_to(run, feature):
    parts, state = run
    return shortened(parts, state, SIDE, feature)


def batches():
    for seed in range(STEPS):
        batch = small_batch(16, SIDE, seed)
        yield batch.replace(views=batch.views[:1])


def forward(params, stats, images, layer):
    """Training mode, by hand: the network up to a layer, and the new statistics."""
    variables = {"params": params["encoder"], "batch_stats": stats["encoder"]}
    x, new = Tiny(groups=2).apply(variables, images, True, mutable=["batch_stats"])
    stats = {"encoder": new["batch_stats"]}
    if layer:
        dense, bn = params["projector"]["dense1"], params["projector"]["bn1"]
        x = jnp.matmul(x, dense["kernel"], precision="highest")
        mean, variance = x.mean(0), x.var(0)
        x = (x - mean) / jnp.sqrt(variance + 1e-5) * bn["scale"] + bn["bias"]
        x = nn.relu(x)
    return x, stats


def plain_losses(network, layer, optimiser, peak):
    """The losses of a plain loop on the same batches."""
    classifier = {"kernel": jnp.zeros((network.width, CLASSES)), "bias": jnp.zeros(10)}
    params, stats = network.params | {"classifier": classifier}, network.stats
    state = optimiser.init(params)

    @jax.jit
    def value_and_grad(params, stats, images, label):
        def loss(params):
            x, new = forward(params, stats, images, layer)
            logits = x @ params["classifier"]["kernel"] + params["classifier"]["bias"]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            return losses.mean(), new

        return jax.value_and_grad(loss, has_aux=True)(params)

    losses = []
    for t, batch in enumerate(batches()):
        (value, new), grads = value_and_grad(params, stats, batch.views[0], batch.label)
        stats = stats | new
        state.hyperparams["learning_rate"] = peak * (1 + np.cos(np.pi * t / STEPS)) / 2
        updates, state = optimiser.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    return losses, params


def adapted(params):
    """The arrays that LARS adapts: kernels, but not the classifier's."""
    marks = {p: p.endswith("kernel") and "classifier" not in p for p in paths(params)}
    return jax.tree.unflatten(jax.tree.structure(params), list(marks.values()))


def nesterov(learning_rate):
    return optax.sgd(learning_rate, momentum=0.9, nesterov=True)


def lars(learning_rate):
    mask = {"weight_decay": 0.0, "trust_ratio_mask": adapted, "momentum": 0.9}
    return optax.lars(learning_rate, **mask)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    ("feature", "name", "plain", "peak"),
    [("h", "sgd", nesterov, 1.0), ("head1", "lars", lars, 2.0)],
)
def test_losses_equal_those_of_a_plain_loop(run, devices, feature, name, plain, peak):
    network = up_to(run, feature)
    mesh = make_mesh(jax.devices()[:devices])
    tx = module.OPTIMISERS[name]()
    state = initial_state(network, tx, CLASSES, mesh)
    step = make_step(network, tx, warmup_cosine(peak, 0, STEPS), mesh)
    losses = []
    for t, batch in enumerate(batches()):
        state, loss = step(state, batch, jax.random.key(0), t)
        losses.append(float(loss))
    optimiser = optax.inject_hyperparams(plain)(learning_rate=peak)
    expected, params = plain_losses(network, feature == "head1", optimiser, peak)
    np.testing.assert_allclose(losses, expected, rtol=2e-4)
    assert abs(losses[-1] - losses[0]) > 0.01
    new, wanted = by_path(state.params), by_path(params)
    for path, value in new.items():
        np.testing.assert_allclose(value, wanted[path], atol=2e-3, err_msg=path)
    old = by_path(network.params)
    assert all(np.abs(new[path] - old[path]).max() > 1e-5 for path in old)


@pytest.mark.parametrize(
    ("feature", "expected"),
    [("h", ENCODER), ("head1", (*ENCODER, *HEAD))],
)
def test_only_what_the_feature_depends_on_is_trained(run, feature, expected):
    network = up_to(run, feature)
    assert {*paths(network.params)} == {*expected}
    state = initial_state(network, module.OPTIMISERS["sgd"](), CLASSES, make_mesh())
    assert {*paths(state.params)} == {*expected, *CLASSIFIER}
    pretrained = by_path(run[1].params)
    for path, value in by_path(state.params).items():
        truth = 0 if path in CLASSIFIER else pretrained[path]
        np.testing.assert_array_equal(value, np.broadcast_to(truth, value.shape))
    assert not any("projector" in p for p in paths(up_to(run, "h").stats))
    assert any("projector/dense2" in p for p in paths(up_to(run, "z").params))


def test_features_that_it_cannot_begin_at(run):
    with pytest.raises(ValueError, match=r"begins at h, z, head1.*got p"):
        up_to(run, "p")


def colours(n, seed, name, classes=3):
    """Pictures whose class is their strongest channel."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % classes
    x = rng.integers(0, 160, (n, SIDE, SIDE, 3))
    x[np.arange(n), :, :, label] += 60
    names = [str(c) for c in range(classes)]
    return Arrays(x.astype(np.uint8), label, name=name, class_names=names)


def task(run, train=None, test=None):
    train, test = (
        train or colours(120, 0, "set/train"),
        test or colours(50, 1, "set/test"),
    )
    return Task(up_to(run, "h"), train, test, SIDE, "", 32)


def test_a_part_of_the_labels_is_learnt(run, monkeypatch):
    seen, done = [], []
    make = module.train_batches

    def watch(source, views, **settings):
        for batch in make(source, views, **settings):
            seen.extend(batch.index.tolist())
            yield batch

    monkeypatch.setattr(module, "train_batches", watch)
    mesh = make_mesh(jax.devices()[:1])
    result = finetune(
        *(task(run), mesh, lambda *step: done.append(step)),
        labels="50%",
        epochs=8,
        batch_size=12,
        lr=4.0,
    )
    assert (result["labels"], result["epochs"], result["steps"]) == (60, 8, 41)
    assert {*seen} == {*range(60)}  # positions in the labelled part
    assert done == [(i, 41) for i in range(1, 42)]
    assert result["count"] == 50
    assert result["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("labels", "expected"), [("1%", 60), ("10%", 30), ("100%", 30)]
)
def test_the_published_epochs(run, monkeypatch, labels, expected):
    """Two classes, and a hundredth of 200 pictures: one of each."""
    monkeypatch.setattr(module, "train_batches", lambda *_, **__: iter(()))
    monkeypatch.setattr(module, "_score", lambda *_: {})
    pair = colours(200, 0, "set/train", 2), colours(50, 1, "set/test", 2)
    mesh = make_mesh(jax.devices()[:1])
    result = finetune(task(run, *pair), mesh, labels=labels, batch_size=1)
    share = int(labels[:-1]) * 2
    steps = share * expected + 1  # floor(n E / B) + 1
    assert result == {"labels": share, "epochs": expected, "steps": steps}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": "1%"}, "are 1, fewer than its 3 classes"),
        ({"labels": "10%"}, "batch_size=4096 is larger than the 12 pictures"),
        ({"labels": "10%", "batch_size": 9}, "does not divide by the 8 devices"),
        ({"labels": "/nowhere"}, "neither a percentage"),
        ({"lr": np.inf, "labels": "100%", "batch_size": 8, "epochs": 1}, "lr=inf"),
    ],
)
def test_invalid_settings_are_errors(run, settings, message):
    with pytest.raises((ValueError, FloatingPointError), match=message):
        finetune(task(run), make_mesh(), **settings)


def test_splits_of_other_classes_are_errors(run):
    two = colours(50, 1, "set/test", 2)
    with pytest.raises(ValueError, match="set/train has 3 classes and set/test has 2"):
        finetune(task(run, test=two), make_mesh())
