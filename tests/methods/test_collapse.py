"""What keeps the embedding space open: each method without it, and with it.

The views are real; collapse is read from `spread` (1 fills the sphere, 0 is a point)
and from the effective rank of the directions of z.
"""

import functools

import jax
import pytest

from simclr_jax.batch import Batch
from simclr_jax.data.pipeline import train_batches
from simclr_jax.data.recipes import simclr as views_of_simclr
from simclr_jax.data.sources import open_source
from simclr_jax.losses.geometry import effective_rank, normalize, spread
from simclr_jax.losses.regression import cosine
from simclr_jax.methods import simclr
from simclr_jax.methods.base import without
from simclr_jax.methods.catalog import METHODS
from simclr_jax.sharding import make_mesh
from simclr_jax.train.optim import sgd
from tests.tools import Tiny, compiled_step, small_state

STEPS = 200
RUNS = {  # keywords and rate
    "simclr": ({"hidden": 32, "out": 16, "temperature": 0.2}, 0.05),
    "byol": ({"hidden": 32, "out": 16, "ema": 0.9, "total_steps": STEPS}, 0.2),
    "simsiam": ({"layers": 2, "out": 16, "bottleneck": 4}, 0.1),
}


@functools.cache
def batches():
    source = open_source("cifar10_mini", split="train")
    views = views_of_simclr(size=32, strength=0.5, blur=0.0)
    made = train_batches(source, views, batch_size=64, seed=0, first_step=0, steps=4)
    return [Batch(views=batch.views) for batch in made]


@functools.cache
def outcome(name, change=lambda method: method):
    """(spread, effective rank) of z after training."""
    keywords, rate = RUNS[name]
    method = change(METHODS[name](Tiny(), **keywords))
    mesh, tx = make_mesh(jax.devices()[:1]), sgd()
    state = small_state(method, tx, batches()[0], mesh)
    step = compiled_step(method, tx, mesh, rate)
    for i in range(STEPS):
        state, _ = step(state, batches()[i % 4])
    _, (_, y, _) = jax.jit(method.loss)(
        state.params, state.for_loss(), batches()[0], state.rng
    )
    return float(spread(y.heads["projector"])), float(
        effective_rank(normalize(y.heads["projector"]).reshape(128, -1))
    )


def own_target(method):
    """BYOL with the online network as its own target, and whatever flows through it."""

    def loss(params, state, batch, rng):
        target = without("predictor", params)
        return method.loss(params, state.replace(target_params=target), batch, rng)

    return method._replace(loss=loss)


@pytest.fixture
def gradients_flow(monkeypatch):
    monkeypatch.setattr(jax.lax, "stop_gradient", lambda x: x)


@pytest.mark.parametrize(
    ("name", "open_spread", "open_rank"),
    [
        ("simclr", 0.7, 6),
        pytest.param("byol", 0.5, 5, marks=pytest.mark.long),
        ("simsiam", 0.8, 5),
    ],
)
def test_as_published_the_space_stays_open(name, open_spread, open_rank):
    spread_of_z, rank = outcome(name)
    assert spread_of_z > open_spread
    assert rank > open_rank


def test_simclr_without_negatives_collapses(monkeypatch):
    """To a point, or on the way there: the last batch norm holds against it."""

    def attraction(z, temperature, **_):
        return -cosine(z[0], z[1]) / temperature, {}

    monkeypatch.setattr(simclr, "nt_xent", attraction)
    spread_of_z, rank = outcome.__wrapped__("simclr")
    assert spread_of_z < 0.5
    assert rank < 3


@pytest.mark.usefixtures("gradients_flow")
def test_simsiam_without_its_stop_gradient_keeps_few_directions():
    """Its last batch norm keeps every coordinate wide; but they all say the same."""
    _, rank = outcome.__wrapped__("simsiam")
    assert rank < 3.5


@pytest.mark.long
@pytest.mark.usefixtures("gradients_flow")
def test_byol_that_teaches_itself_collapses():
    spread_of_z, rank = outcome.__wrapped__("byol", own_target)
    assert spread_of_z < 0.1
    assert rank < 2
