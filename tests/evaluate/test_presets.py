"""The papers' settings against their tables, and what the settings do."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.evaluate import linear_augmented as module
from simclr_jax.evaluate.knn import knn
from simclr_jax.evaluate.linear_augmented import linear_augmented
from simclr_jax.evaluate.presets import KNN, LINEAR
from simclr_jax.experiment import config
from simclr_jax.experiment.schema import defaults
from simclr_jax.sharding import make_mesh
from tests.evaluate.test_linear_augmented import ENCODER, SIDE, Colours, features

N = 1_281_167
# Read again from the papers and the codes: optimiser, first rate, batch, epochs, decay,
# rate in the middle of the run as a share of the first, initial kernel, features
TABLE = {
    "simclr": ("nesterov", 1.6, 4096, 90, 0, 0.5, 0, "h"),
    "byol": ("nesterov", (1.6, 1.2, 0.8, 0.4, 0.2), 1024, 80, 0, 0.5, None, "h"),
    "moco": ("sgd", 30, 256, 100, 0, 1, 0.01, "h"),
    "mocov3": ("sgd", 0.4, 1024, 90, 0, 0.5, 0.01, "h"),
    "mocov3_vit": ("sgd", 12, 1024, 90, 0, 0.5, 0.01, "h"),
    "simsiam": ("larc", 1.6, 4096, 90, 0, 0.5, 0.01, "h"),
    "dino_vit_s": ("sgd", 0.004, 1024, 100, 0, 0.5, 0.01, "cls4"),
    "dino_vit_b": ("sgd", 0.004, 1024, 100, 0, 0.5, 0.01, "cls_patch"),
    "dino_resnet50": ("sgd", 0.3, 1024, 100, 0, 0.5, 0.01, "h"),
    "tsimcne": ("sgd", 30, 1024, 100, 5e-4, 0.5, 0.01, "h"),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_preset_has_the_settings_of_its_paper(name):
    optimiser, first, batch, epochs, decay, middle, kernel, feature = TABLE[name]
    s = defaults(linear_augmented) | LINEAR[name].settings
    assert s["optimiser"] == optimiser
    rates = s["rates"] or (s["lr"],)
    expected = first if isinstance(first, tuple) else (first,)
    assert [rate * s["batch_size"] / 256 for rate in rates] == pytest.approx(expected)
    assert (s["batch_size"], s["epochs"], s["weight_decay"]) == (batch, epochs, decay)
    assert LINEAR[name].features == feature
    total = {"simclr": N * epochs // batch + 1, "byol": N * epochs // batch}
    steps = module.total_steps(s["length"], N, epochs, batch)
    assert steps == total.get(name, N // batch * epochs)
    rate = module.SHAPES[s["schedule"]](
        peak=1.0,
        end=0.0,
        warmup=0,
        total=steps,
        epoch=N // batch,
        milestones=s["milestones"],
    )
    assert rate(0) == 1
    assert rate(steps // 2) == pytest.approx(middle, abs=1e-3)
    if name == "moco":
        at = [float(rate(N // 256 * epoch)) for epoch in (59, 60, 79, 80, 99)]
        np.testing.assert_allclose(at, [1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    if kernel is not None:
        head = module._initial(512, 100, s["initializer"], 0)
        assert head["kernel"].std() == pytest.approx(kernel, rel=0.02)
        assert not head["bias"].any()


def test_presets_are_known_to_the_config():
    c = config.load("moco_imagenet")  # with settings of its own
    c.evaluate.linear_augmented.seed = 5
    protocols = {
        "linear_augmented": (LINEAR, defaults(linear_augmented) | {"seed": 5}),
        "knn": (KNN, defaults(knn)),
    }
    for protocol, (presets, usual) in protocols.items():
        for name, preset in presets.items():
            changes, feature = config.preset(protocol, name)
            config.override(c, changes)
            assert feature == preset.features
            assert c.evaluate[protocol].to_dict() == usual | preset.settings
    with pytest.raises(ValueError, match=r"--preset: unknown 'mocov2'.*'mocov3'"):
        config.preset("linear_augmented", "mocov2")
    with pytest.raises(ValueError, match="linear has no presets; linear_augmented"):
        config.preset("linear", "moco")


def test_dinos_vote():
    """k = 20 and exp(s / 0.07) of arXiv:2104.14294 and its eval_knn.py."""
    assert KNN["dino"].settings == {"k": 20, "temperature": 0.07}


def test_larc_by_hand():
    """The raw gradient while the kernel is 0, then 0.001 |w| / |g| times it."""
    c = {"schedule": "cosine", "milestones": (), "batch_size": 256, "weight_decay": 0.0}
    tx = module._optimiser(c | {"optimiser": "larc"}, 2.0, 256, 10**9)
    head = {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.zeros(2)}
    grad = {"kernel": jnp.array([[0.0, 2.0]]), "bias": jnp.array([1.0, 2.0])}
    updates: Any = tx.update(grad, tx.init(head), head)[0]
    np.testing.assert_allclose(updates["kernel"], [[0, -2 * 0.001 * 5]], rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], [-2, -4], rtol=1e-5)


def test_the_best_rate_of_a_held_out_part_is_used(monkeypatch):
    """A rate that is far too small and one that diverges lose."""
    mesh, train = make_mesh(jax.devices()[:1]), Colours(72, 0)
    test = features(Colours(45, 1), mesh)
    settings: dict[str, Any] = {"epochs": 5, "batch_size": 16, "length": "byol"}
    seen = []
    plain = module.train_batches

    def train_batches(source, views, **rest):
        seen.append((len(source), rest["steps"], views))
        return plain(source, views, **rest)

    monkeypatch.setattr(module, "train_batches", train_batches)
    calls = []
    result = linear_augmented(
        *(ENCODER, train, test, "h", SIDE, mesh, lambda *x: calls.append(x)),
        rates=(1e-9, 20.0, np.inf),
        validation=7,
        crops="torchvision",
        **settings,
    )
    assert result["rate"] == 20.0
    assert result["accuracy"] > 0.7
    assert [x[:2] for x in seen] == [(65, 20), (72, 22)]  # floor(n 5 / 16)
    (view,) = seen[0][2]
    assert (view.crop, view.resize, view.area) == ("torch", "pil_bilinear", (0.08, 1))
    assert dataclasses.replace(view, size=9).jitter == 0
    assert calls == [(i, 42) for i in range(1, 43)]
