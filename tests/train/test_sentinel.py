"""When the sentinel reports what."""

import math

import pytest

from simclr_jax.methods.health import Sign
from simclr_jax.train.sentinel import Sentinel

DEAD = Sign("dead", {"loss": (6, math.inf), "rank": (0, 2)}, "Loss {loss:.1f}: {lr}.")


def reports(*lines, first=0):
    sentinel = Sentinel([DEAD], first)
    return [
        (step, *x) for step, line in lines for x in sentinel(step, {"lr": 1} | line)
    ]


SHOWS = {"loss": 6.0, "rank": 1.0}


@pytest.mark.parametrize(
    ("lines", "steps"),
    [
        ([SHOWS] * 5, [2]),  # once
        ([SHOWS, {"loss": 7.0}, SHOWS], [3]),  # a line without the rank counts as none
        ([SHOWS, SHOWS | {"rank": 3.0}, SHOWS], []),
        ([SHOWS, SHOWS | {"loss": math.nan}, SHOWS, SHOWS], [4]),
        ([{"loss": 9.0}] * 3, []),
    ],
)
def test_a_sign_is_reported_when_it_has_shown_twice_in_a_row(lines, steps):
    found = reports(*enumerate(lines, start=1))
    assert [(step, name) for step, name, _ in found] == [(x, "dead") for x in steps]


def test_the_sentence_has_the_metrics():
    ((_, _, text),) = reports((1, SHOWS), (2, SHOWS))
    assert text == "Loss 6.0: 1."


def test_early_steps_are_not_looked_at():
    lines = [(step, SHOWS) for step in (98, 99, 100, 101)]
    assert [step for step, *_ in reports(*lines, first=100)] == [101]
