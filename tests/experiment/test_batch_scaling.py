"""Recipes at other batch sizes, against closed forms per image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.byol_imagenet import PRESETS
from simclr_jax import sharding
from simclr_jax.batch import Batch
from simclr_jax.cli import common, pretrain
from simclr_jax.experiment import batch_scaling, build, config, schema, training
from simclr_jax.experiment.workdir import read_saved
from simclr_jax.methods.base import cosine_to_one
from simclr_jax.models.catalog import ENCODERS
from simclr_jax.train.step import update_target
from tests.tools import Tiny

IMAGES = 5000  # in the training split
SEEN = 5120  # images that a target follows


def load(name, **changes):
    c = config.load(f"configs/{name}.py")
    changes = {key.replace("__", "."): str(value) for key, value in changes.items()}
    config.override(c, list(changes.items()))
    schema.check(c)
    return c


def at(name, batch, recipe_batch_size, **changes):
    return load(
        name, data__batch_size=batch, recipe_batch_size=recipe_batch_size, **changes
    )


def followed(online, ema, batch):
    """The target after SEEN images, where the online number is a function of them."""
    target = {"w": jnp.float32(0)}
    for seen in range(batch, SEEN + 1, batch):
        target = update_target(target, {"w": jnp.float32(online(seen))}, ema)
    return float(target["w"])


@pytest.mark.parametrize("batch", [32, 256, 1024])
def test_the_age_of_a_target_in_images_is_the_same_at_any_batch(batch):
    """The share of the first value, and the lag behind a constant drift in images."""
    before, new = (
        0.97,
        batch_scaling.kept_per_step(at("byol_quickstart", batch, 64)).method["ema"],
    )
    left = 1 - followed(lambda n: 1, new, batch)
    assert left == pytest.approx(1 - followed(lambda n: 1, before, 64), rel=1e-3)
    lag, untouched = (SEEN - followed(lambda n: n, x, batch) for x in (new, before))
    expected = SEEN - followed(lambda n: n, before, 64)
    late = abs(batch - 64) / 2  # a target moves once a batch
    assert abs(lag - expected) < late + 1
    assert abs(untouched - expected) > 2 * late


def test_byol_s_preset_for_batch_512():
    c = at("byol_imagenet", 512, 4096, method__ema=0.996)
    ema = batch_scaling.kept_per_step(c).method["ema"]
    assert ema == pytest.approx(0.996 ** (1 / 8), rel=1e-12)
    assert round(ema, 4) == PRESETS[1000, 512][2]


@pytest.mark.parametrize("k", [1 / 64, 1 / 8, 2, 8])
def test_scaling_the_first_value_approximates_a_scaled_cosine(k):
    for start in (0.97, 0.996):
        whole = cosine_to_one(start, 100)
        scaled = cosine_to_one(start**k, 100)
        for step in range(101):
            exact = float(whole(step)) ** k
            bound = k * abs(k - 1) * (1 / start - 1) ** 2 / 8  # of a chord
            assert abs(float(scaled(step)) - exact) < bound + 3e-7  # and of float32


# What the method gets, in real steps.


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(ENCODERS, "resnet10", lambda *, stem="small": Tiny())


def after_a_step(c):
    """The state before and after one call of the loss, on noise."""
    method = build.build_method(c, images=IMAGES, classes=10)
    draw = np.random.default_rng(0)
    views = tuple(
        draw.integers(0, 256, (c.data.batch_size, view.size, view.size, 3), np.uint8)
        for view in build.recipe(c)
        for _ in range(view.copies)
    )
    batch = Batch(label=jnp.zeros(c.data.batch_size, jnp.int32), views=views)
    key = jax.random.key(0)
    old = method.init(key, views).replace(step=jnp.int32(0))
    _, (new, _, _) = jax.jit(method.loss)(old.params, old.for_loss(), batch, key)
    return method, old, new


def moved(state):
    """How far the running means have gone from 0, in encoder and heads."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state.model_state)
    return {str(path): np.asarray(x) for path, x in flat if "mean" in str(path)}


@pytest.mark.usefixtures("tiny")
def test_batch_norm_of_encoder_and_head(monkeypatch):
    """SimCLR passes once, so that its statistics go 1 - 0.9^k of the way."""
    _, _, off = after_a_step(at("quickstart", 8, 0))
    _, _, on = after_a_step(at("quickstart", 8, 32))
    off, on = moved(off), moved(on)
    assert {part in str(off) for part in ("encoder", "projector")} == {True}
    for path, mean in off.items():
        assert np.abs(mean).max() > 1e-3
        want = mean * (1 - 0.9**0.25) / 0.1
        np.testing.assert_allclose(on[path], want, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("tiny")
def test_dino_s_teacher_and_centre():
    small = {"method__prototypes": 16, "method__hidden": 16, "augment__locals": 0}
    method, _, off = after_a_step(at("dino_quickstart", 8, 0, **small))
    scaled, _, on = after_a_step(at("dino_quickstart", 8, 16, **small))
    assert method.ema
    assert scaled.ema
    assert float(method.ema(0)) == pytest.approx(0.98, rel=1e-6)
    assert float(scaled.ema(0)) == pytest.approx(0.98**0.5, rel=1e-6)
    assert np.abs(off.method_state).max() > 1e-3
    ratio = (1 - 0.9**0.5) / (1 - 0.9)
    np.testing.assert_allclose(on.method_state, ratio * off.method_state, rtol=1e-3)


@pytest.mark.usefixtures("tiny")
def test_the_age_of_moco_s_queue_in_images_is_the_same():
    small = {"encoder__name": "resnet10", "method__queue": 64, "method__hidden": 16}
    ages = {}
    for batch in (8, 16):
        c = at("quickstart", batch, 32, method__name="moco", **small)
        method, old, new = after_a_step(c)
        assert method.ema
        assert method.ema(0) == pytest.approx(0.999 ** (batch / 32), rel=1e-12)
        queue, before = new.method_state["queue"], old.method_state["queue"]
        steps = len(queue) / np.sum(np.any(queue != before, axis=1))
        ages[batch] = steps * batch
    assert ages == {8: 64, 16: 64}


# What does not change, and the log.


@pytest.mark.parametrize("batch", [64, 256, 1000])
def test_rate_and_length_do_not_change(batch):
    on, off = (at("byol_quickstart", batch, k) for k in (256, 0))
    assert build.length(on, IMAGES) == build.length(off, IMAGES)
    assert build.peak_rate(on) == build.peak_rate(off)
    warmup = build.length(on, IMAGES)[1] * batch
    assert 0 <= 2 * IMAGES - warmup < batch  # images, as many at any batch


def notes(c, images=IMAGES):
    mesh = sharding.make_mesh(jax.devices()[:1])
    return build.assemble(c, mesh, images=images, classes=10).notes


def test_the_table():
    c = at("byol_quickstart", 512, 4096, method__ema=0.996)
    assert notes(c)[0].splitlines() == [
        "byol at batch 512 instead of 4096:",
        "  ema                  0.996 -> 0.9995",
        "  batch norm             0.9 -> 0.987",
        "  steps of warm-up         2 -> 19",
    ]
    c = at("moco_quickstart", 64, 256)
    assert notes(c)[0].splitlines()[-2:] == [
        "  steps of warm-up        39 -> 156",
        "  batches in queue         8 -> 32",
    ]
    c = at("dino_quickstart", 64, 256, steps=20)  # its warm-up is a part of these
    assert [line.split()[0] for line in notes(c)[0].splitlines()] == [
        *("dino", "ema", "centre_momentum", "batch")
    ]


def test_encoders_without_batch_norm_have_no_line_for_it():
    c = load("dino_quickstart", encoder__name="vit_mini", method__batch_norm="false")
    config.override(c, [("recipe_batch_size", "512"), ("augment.local_size", "16")])
    assert "batch norm" not in notes(c)[0]
    assert "centre_momentum" in notes(c)[0]


def test_the_batch_of_the_recipe_changes_nothing():
    assert not any("batch" in note for note in notes(load("byol_quickstart")))
    c = load("byol_quickstart", recipe_batch_size=256)
    assert (
        notes(c)[0] == "recipe_batch_size=256: at batch 256 nothing is another number"
    )
    original = load("byol_quickstart")
    assert batch_scaling.kept_per_step(c) == batch_scaling.kept_per_step(original)
    assert batch_scaling.kept_per_step(c) == ({"ema": 0.97}, 0.9)


@pytest.mark.parametrize("name", ["byol_imagenet", "moco_imagenet", "dino_imagenet"])
def test_published_recipes_are_not_scaled(name):
    assert load(name).recipe_batch_size == 0


def test_the_table_is_logged(tmp_path, in_process, monkeypatch, capsys, tiny):
    monkeypatch.setattr(training, "prepare_views", lambda _: lambda: None)
    c = at("byol_quickstart", 32, 256, steps=1, method__hidden=16)
    pretrain.pretrain(c, str(tmp_path))
    output = capsys.readouterr().err
    assert "byol at batch 32 instead of 256:\n  ema " in output
    assert read_saved(tmp_path)["method"]["ema"] == 0.97  # of the recipe


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.recipe_batch_size=-1", "recipe_batch_size=-1: must be 0 or more"),
        ("--config.recipe_batch_size=4k", "recipe_batch_size must be a whole number"),
        ("--config.recipe_batch_size=true", "recipe_batch_size must be a whole number"),
        ("--config.recipe_batch_siz=4096", "Did you mean 'recipe_batch_size'"),
        ("--config.data.batch_size=0", "data.batch_size=0: must be above 0"),
    ],
)
def test_wrong_values(argument, message):
    arguments = ["--config=configs/byol_quickstart.py", "--workdir=x"]
    with pytest.raises(common.UsageError, match=message.replace(".", r"\.")):
        pretrain.read([*arguments, argument])


def test_a_number_outside_0_and_1_is_left_for_the_method_to_check():
    c = at("byol_quickstart", 64, 256, method__ema=-0.5)
    with pytest.raises(ValueError, match=r"ema must be from 0 to 1, got -0\.5"):
        build.build_method(c, images=IMAGES, classes=10)
    assert [batch_scaling.power(x, 0.25) for x in (0.0, 1.0)] == [0.0, 1.0]
