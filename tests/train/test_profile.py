import re

import jax
import jax.numpy as jnp
import pytest

from simclr_jax.storage import bucket
from simclr_jax.train import profile


@pytest.mark.parametrize(
    ("text", "steps"), [("", (0, 0)), ("3:5", (3, 5)), ("7:7", (7, 7))]
)
def test_steps_of(text, steps):
    assert profile.steps_of(text) == steps


@pytest.mark.parametrize("text", ["5", "5:", ":5", "0:3", "5:3", "a:b", "1:2:3"])
def test_steps_that_cannot_be_traced(text):
    with pytest.raises(ValueError, match=f"profile='{text}'.*FIRST:LAST"):
        profile.steps_of(text)


def program(n):
    """A compiled step with its number in its name, which a trace has."""

    def step(state):
        return state + n

    step.__name__ = f"number_{n}_"
    return jax.jit(step)


def run(workdir, steps, first_step, total):
    """Runs steps with a trace of some of them."""
    programs = iter([program(n + 1) for n in range(first_step, total)])

    def step(state, batch):
        return next(programs)(state), batch

    state = jnp.zeros(3)
    with profile.traced(step, steps, first_step, workdir) as step:
        for _ in range(first_step, total):
            state, _ = step(state, ())


def numbers(data):
    """The numbers of the steps that ran, by the names of a trace's events."""
    planes = jax.profiler.ProfileData.from_serialized_xspace(data).planes
    names = {
        event.name for plane in planes for line in plane.lines for event in line.events
    }
    return {int(n) for n in re.findall(r"number_(\d+)_", " ".join(names))}


@pytest.mark.parametrize(
    ("first_step", "total", "traced"),
    [(0, 6, {3, 4}), (1, 3, {3}), (3, 6, set()), (0, 2, set())],
)
def test_a_trace_has_the_steps_of_the_run(tmp_path, first_step, total, traced):
    run(str(tmp_path), (3, 4), first_step, total)
    files = [*tmp_path.rglob("profile/plugins/profile/*/*.xplane.pb")]
    assert [numbers(file.read_bytes()) for file in files] == [traced] * bool(traced)


def test_a_trace_in_a_bucket(cloud):
    run("gs://bucket/run", (2, 2), 0, 3)
    (name,) = [x for x in bucket.under("gs://bucket/run") if x.endswith(".xplane.pb")]
    assert name.startswith("gs://bucket/run/profile/plugins/profile/")
    assert numbers(bucket.read(name)) == {2}


def test_nothing_is_traced_by_default(tmp_path):
    run(str(tmp_path), (0, 0), 0, 3)
    assert not [*tmp_path.iterdir()]
