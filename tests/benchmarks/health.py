"""Healthy and broken runs on the embedded pictures, and what the sentinel says of them.

  python -m tests.benchmarks.health --out DIR [--only TEXT] [--skip-present]

Healthy: the quickstart of every method in two seeds. Broken: 200 steps of a quickstart
without one of its protections, or with a hundred times its learning rate. Writes
DIR/NAME.jsonl, the metrics of every logged step, and prints the warnings of all.
"""

import argparse
import contextlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock

import jax

from simclr_jax.experiment import config
from simclr_jax.experiment.training import pretrain
from simclr_jax.losses.regression import cosine
from simclr_jax.methods import byol, simclr
from simclr_jax.methods.base import without
from simclr_jax.methods.catalog import METHODS

QUICKSTARTS = ("quickstart", "moco_quickstart", "mocov3_quickstart", "byol_quickstart")
QUICKSTARTS += ("simsiam_quickstart", "dino_quickstart", "tsimcne_quickstart")
STEPS = 200
RATE = 100  # of the quickstart's learning rate


@contextlib.contextmanager
def gradients_flow() -> Iterator[None]:
    """No gradient is stopped."""
    with mock.patch.object(jax.lax, "stop_gradient", lambda x: x):
        yield


@contextlib.contextmanager
def without_negatives() -> Iterator[None]:
    """SimCLR attracts positives and repels nothing."""

    def attraction(z, temperature, **_):
        return -cosine(z[0], z[1]) / temperature, {}

    with mock.patch.object(simclr, "nt_xent", attraction):
        yield


@contextlib.contextmanager
def own_target() -> Iterator[None]:
    """BYOL's online network is its own target, and gradients flow through it."""

    def factory(*args, **keywords):
        method = byol.byol(*args, **keywords)

        def loss(params, state, batch, rng):
            target = without("predictor", without("probe", params))
            return method.loss(params, state.replace(target_params=target), batch, rng)

        return method._replace(loss=loss)

    factory.__signature__ = __import__("inspect").signature(byol.byol)
    with mock.patch.dict(METHODS, {"byol": factory}), gradients_flow():
        yield


class Case(NamedTuple):
    """A run of a quickstart config."""

    config: str
    seed: int = 0
    steps: int = 0  # 0: the config's
    changes: tuple[tuple[str, str], ...] = ()
    rate: float = 1.0
    broken: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext


SHARP = (
    ("method.teacher_temperature", "1.0"),
    ("method.teacher_temperature_end", "1.0"),
)
CASES = {
    "simsiam_without_stop_gradient": Case(
        "simsiam_quickstart", steps=STEPS, broken=gradients_flow
    ),
    "byol_own_target": Case("byol_quickstart", steps=STEPS, broken=own_target),
    "dino_without_centring": Case(
        "dino_quickstart", steps=STEPS, changes=(("method.centre_momentum", "1.0"),)
    ),
    "dino_without_sharpening": Case("dino_quickstart", steps=STEPS, changes=SHARP),
    "simclr_without_negatives": Case(
        "quickstart", steps=STEPS, broken=without_negatives
    ),
    **{f"{x}_rate": Case(x, steps=STEPS, rate=RATE) for x in QUICKSTARTS},
    **{f"{x}_{seed}": Case(x, seed) for seed in range(2) for x in QUICKSTARTS},
}


def record(case: Case, path: pathlib.Path) -> None:
    """Trains and writes the metrics of the run."""
    c = config.load(case.config)
    c.seed, c.evaluate.every, c.checkpoint.every = case.seed, 0, 10**6
    c.steps, c.optim.lr = case.steps or c.steps, case.rate * c.optim.lr
    config.override(c, case.changes)
    with tempfile.TemporaryDirectory() as folder:
        with case.broken(), contextlib.suppress(FloatingPointError):
            pretrain(c, folder)
        shutil.copy(pathlib.Path(folder, "metrics.jsonl"), path)
    jax.clear_caches()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--skip-present", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        path = arguments.out / f"{name}.jsonl"
        if arguments.only in name and not (arguments.skip_present and path.exists()):
            record(case, path)
            last = json.loads(path.read_text().splitlines()[-1])
            print(name, json.dumps(last), flush=True)


if __name__ == "__main__":
    main()
