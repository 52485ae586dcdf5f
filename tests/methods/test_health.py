"""A protection is broken on real pictures: the sentinel names what happened.

Each method without its protection, or with a rate that is far too high, within 200
steps; and no word of a healthy run.
"""

import functools
import json
import pathlib
from functools import partial
from unittest import mock

import jax
import pytest

from simclr_jax.batch import Batch
from simclr_jax.data.pipeline import train_batches
from simclr_jax.data.recipes import simclr as views_of_simclr
from simclr_jax.data.sources import open_source
from simclr_jax.experiment.health import FIRST
from simclr_jax.losses.regression import cosine
from simclr_jax.methods import simclr
from simclr_jax.methods.base import without
from simclr_jax.methods.catalog import METHODS
from simclr_jax.methods.health import GENERAL
from simclr_jax.sharding import make_mesh
from simclr_jax.train.health import make_health
from simclr_jax.train.optim import adamw
from simclr_jax.train.sentinel import Sentinel
from tests.tools import Tiny, compiled_step, small_state

STEPS, EVERY, N = 200, 20, 64
RATE, TOO_HIGH = 0.005, 0.5
SMALL = {"hidden": 32, "out": 16}
RUNS = {
    "simclr": SMALL | {"temperature": 0.2},
    "moco": SMALL | {"queue": 512, "ema": 0.9},
    "mocov3": SMALL | {"temperature": 0.2, "ema": 0.9, "total_steps": STEPS},
    "byol": SMALL | {"ema": 0.9, "total_steps": STEPS},
    "simsiam": {"layers": 2, "out": 16, "bottleneck": 4},
    "dino": SMALL
    | {"prototypes": 64, "teacher_temperature_end": 0.04, "ema": 0.9}
    | {"batch_norm": True, "total_steps": STEPS, "steps_per_epoch": 20},
    "tsimcne": SMALL,
}


@functools.cache
def batches():
    source = open_source("cifar10_mini", split="train")
    views = views_of_simclr(size=32, strength=0.5, blur=0.0)
    made = train_batches(source, views, batch_size=N, seed=0, first_step=0, steps=8)
    return [Batch(views=batch.views) for batch in made]


def recorded(name, rate=RATE, change=lambda method: method, **keywords):
    """The metrics of the steps with diagnostics: [(step, metrics)]."""
    method = change(METHODS[name](Tiny(width=16), **RUNS[name] | keywords))
    mesh, tx = make_mesh(jax.devices()[:1]), adamw(total_steps=STEPS)
    state = small_state(method, tx, batches()[0], mesh)
    step = compiled_step(method, tx, mesh, rate)
    health, lines = jax.jit(make_health(method)), []
    for done in range(1, STEPS + 1):
        batch = batches()[done % 8]
        state, metrics = step(state, batch)
        if done % EVERY == 0:
            metrics |= health(state, batch)
            lines.append((done, {k: float(x) for k, x in metrics.items()}))
    return lines


def own_target(method):
    """BYOL with the online network as its target, and whatever flows through it."""

    def loss(params, state, batch, rng):
        target = without("predictor", params)
        return method.loss(params, state.replace(target_params=target), batch, rng)

    return method._replace(loss=loss)


def attraction(z, temperature, **_):
    return -cosine(z[0], z[1]) / temperature, {}


def patched(obj, name, value, run):
    with mock.patch.object(obj, name, value):
        return run()


def flowing(run):
    """A run in which no gradient is stopped."""
    return patched(jax.lax, "stop_gradient", lambda x: x, run)


WARM = {"teacher_temperature": 1.0, "teacher_temperature_end": 1.0}
CASES = {  # what is broken: (the run, the method, the sign, a word of its sentence)
    "simsiam: stop-gradient": (
        lambda: flowing(lambda: recorded("simsiam")),
        *("simsiam", "collapse", "stop_gradient"),
    ),
    "byol: stop-gradient and EMA": (
        lambda: flowing(lambda: recorded("byol", change=own_target)),
        *("byol", "collapse", "stop_gradient"),
    ),
    "dino: centring": (
        lambda: recorded("dino", centre_momentum=1.0),
        *("dino", "one prototype", "centring"),
    ),
    "dino: sharpening": (
        lambda: recorded("dino", **WARM),
        *("dino", "uniform", "sharpening"),
    ),
    "simclr: negatives": (
        lambda: patched(simclr, "nt_xent", attraction, lambda: recorded("simclr")),
        *("simclr", "collapse", "negatives"),
    ),
    **{
        f"{x}: rate": (partial(recorded, x, TOO_HIGH), x, "rate", "optim.lr")
        for x in RUNS
    },
    **{f"{x}: nothing": (partial(recorded, x), x, "", "") for x in RUNS},
}
RECORDED = pathlib.Path(__file__).with_name("health.json")


def reports(name, lines):
    signs = METHODS[name](Tiny(), **RUNS[name]).health.signs(N)
    sentinel = Sentinel((*GENERAL, *signs), FIRST)
    return [x for step, metrics in lines for x in sentinel(step, metrics)]


def check(case, lines):
    _, name, sign, word = CASES[case]
    found = dict(reports(name, lines))
    assert (sign in found) if sign else not found
    assert word in found.get(sign, "")


@pytest.mark.parametrize("case", CASES)
def test_what_is_broken_is_named(case):
    """From the metrics of the runs below; `python -m tests.methods.test_health`."""
    check(case, json.loads(RECORDED.read_text())[case])


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_what_is_broken_is_named_within_200_steps(case):
    check(case, CASES[case][0]())


KEPT = ("loss", "lr", "weight_rms", "h_rank", "z_rank", "z_uniformity", "kl")
KEPT += ("teacher_entropy", "prototype_entropy")


def record():
    """Writes the metrics of all runs that the sentinel looks at."""
    lines = {
        case: [
            (step, {k: float(f"{metrics[k]:.4g}") for k in KEPT if k in metrics})
            for step, metrics in CASES[case][0]()
            if step >= FIRST
        ]
        for case in CASES
    }
    RECORDED.write_text(
        "{\n"
        + ",\n".join(f"{json.dumps(k)}: {json.dumps(x)}" for k, x in lines.items())
        + "\n}\n"
    )


if __name__ == "__main__":
    record()
