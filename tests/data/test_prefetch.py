"""Batches are sent to the mesh in order, ahead of their use; errors are raised."""

import threading

import jax
import numpy as np
import pytest

from simclr_jax import sharding
from simclr_jax.data.prefetch import feed


def counting(stop, made=None, failure=None):
    for i in range(stop):
        if made is not None:
            made.append(i)
        yield {"x": np.full((8, 2), i), "y": np.arange(8)}
    if failure is not None:
        raise failure


def test_batches_arrive_in_order_split_by_rows():
    mesh = sharding.make_mesh()
    batches = list(feed(counting(5), mesh))
    assert [int(batch["x"][0, 0]) for batch in batches] == [0, 1, 2, 3, 4]
    for leaf in jax.tree.leaves(batches[0]):
        assert leaf.sharding == sharding.by_batch(mesh)
    assert list(feed(iter(()), mesh)) == []


def test_an_error_is_raised_after_the_batches_before_it():
    failure = OSError("gone")
    batches = feed(counting(3, failure=failure), sharding.make_mesh())
    assert [int(next(batches)["x"][0, 0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="gone") as caught:
        next(batches)
    assert caught.value is failure


def test_a_thread_makes_some_batches_ahead_and_ends_with_the_iterator():
    made, before = [], threading.active_count()
    batches = feed(counting(100, made), sharding.make_mesh(), ahead=3)
    next(batches)
    next(batches)
    batches.close()
    assert 2 <= len(made) <= 5
    assert threading.active_count() == before
