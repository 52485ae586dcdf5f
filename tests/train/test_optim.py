"""LARS in both variants against the released optimisers' numbers; the others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.train.optim import NORMS_AND_BIASES, adamw, lars, sgd
from simclr_jax.train.rules import match_rules

G = jnp.array([1.0, -2.0])


def advance(tx, grads, state, params, **extra) -> tuple[Any, Any]:
    """The parameters and the optimiser state after one update."""
    updates, state = tx.update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state


def walk(tx, rates, *, params, grads, path=("layer", "kernel")):
    """The parameter after each of the rates, with a constant gradient."""
    params = {path[0]: {path[1]: jnp.asarray(params)}}
    grads = {path[0]: {path[1]: jnp.asarray(grads)}}
    state, seen = tx.init(params), []
    for step, rate in enumerate(rates):
        params, state = advance(tx, grads, state, params, rate=rate, step=step)
        seen.append(params[path[0]][path[1]])
    return np.asarray(seen)


ALL = {"no_decay": (), "no_adaptation": ()}


@pytest.mark.parametrize("rate_in_momentum", [True, False])
def test_lars_at_a_constant_rate(rate_in_momentum):
    tx = lars(weight_decay=0.1, rate_in_momentum=rate_in_momentum, **ALL)
    seen = walk(tx, [2, 2, 2], params=[3.0, 4.0], grads=G)
    expected = [
        (2.9936940737, 4.0077611400),
        (2.9817097432, 4.0225110853),
        (2.9646089476, 4.0435582183),
    ]
    np.testing.assert_allclose(seen, expected, rtol=2e-7)


@pytest.mark.parametrize(
    ("rate_in_momentum", "expected"),
    [
        (True, [(2.9848642417, 4.0186286257), (2.9753390586, 4.0303519278)]),
        (False, [(2.9877019085, 4.0151361126), (2.9834274499, 4.0203969848)]),
    ],
)
def test_variants_of_lars_differ_when_the_rate_changes(rate_in_momentum, expected):
    tx = lars(weight_decay=0.1, rate_in_momentum=rate_in_momentum, **ALL)
    seen = walk(tx, [2, 1, 0.5], params=[3.0, 4.0], grads=G)
    np.testing.assert_allclose(seen[0], (2.9936940737, 4.0077611400), rtol=2e-7)
    np.testing.assert_allclose(seen[1:], expected, rtol=2e-7)


def test_excluded_parameters_take_plain_momentum_steps():
    tx = lars(weight_decay=0.1, no_decay=(r"/bias$",), no_adaptation=(r"/bias$",))
    seen = walk(tx, [2, 2, 2], params=[3.0, 4.0], grads=G, path=("layer", "bias"))
    np.testing.assert_allclose(seen, [(1, 8), (-2.8, 15.6), (-8.22, 26.44)], rtol=1e-6)


def test_twice_the_gradient_is_half_the_decay():
    expected = (2.9946161072, 4.0084269626)
    for scale, decay in ((2, 0.1), (1, 0.05)):
        tx = lars(weight_decay=decay, **ALL)
        seen = walk(tx, [2], params=[3.0, 4.0], grads=scale * G)
        np.testing.assert_allclose(seen[0], expected, rtol=2e-7)


@pytest.mark.parametrize(
    ("params", "grads", "after"),
    [([0.0, 0.0], G, [-2.0, 4.0]), ([3.0, 4.0], [0.0, 0.0], [3.0, 4.0])],
)
def test_zero_norms_are_not_adapted(params, grads, after):
    seen = walk(lars(weight_decay=0.0, **ALL), [2], params=params, grads=grads)
    np.testing.assert_allclose(seen[0], after, rtol=1e-6)


def test_step_0_of_simclr_leaves_no_trace():
    """With the rate inside the buffer, a rate of 0 leaves the buffer at 0, too."""
    first, second = walk(
        lars(weight_decay=0.1, **ALL), [0, 2], params=[3, 4.0], grads=G
    )
    np.testing.assert_array_equal(first, [3, 4])
    np.testing.assert_allclose(second, (2.9936940737, 4.0077611400), rtol=2e-7)


def test_sgd_is_nesterov_with_l2():
    """Two steps of the textbook form: v <- m v + g', w <- w - rate (g' + m v)."""
    w, v, seen = np.array([3.0, 4.0]), np.zeros(2), []
    for _ in range(2):
        g = np.asarray(G) + 0.1 * w
        v = 0.9 * v + g
        w = w - 0.5 * (g + 0.9 * v)
        seen.append(w)
    tx = sgd(weight_decay=0.1, no_decay=())
    actual = walk(tx, [0.5, 0.5], params=[3.0, 4.0], grads=G)
    np.testing.assert_allclose(actual, seen, atol=1e-6)


def test_adamw_is_optax_adamw():
    params = {"layer": {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([1.0])}}
    grads = {"layer": {"kernel": G, "bias": jnp.array([0.5])}}
    mask = {"layer": {"kernel": True, "bias": False}}
    ours = adamw(weight_decay=0.1, no_decay=(r"/bias$",), total_steps=3)
    theirs = optax.adamw(0.01, weight_decay=0.1, mask=mask)
    a, b = ours.init(params), theirs.init(params)
    p = q = params
    for step in range(3):
        p, a = advance(ours, grads, a, p, rate=0.01, step=step)
        q, b = advance(theirs, grads, b, q)
    np.testing.assert_allclose(p["layer"]["kernel"], q["layer"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(p["layer"]["bias"], q["layer"]["bias"], rtol=1e-6)


def test_weight_decay_goes_up_by_a_cosine():
    """With a gradient of zero, the decay is all that moves AdamW's parameters."""
    tx = adamw(
        weight_decay=0.04, weight_decay_end=0.4, no_decay=(), total_steps=125_100
    )
    params, zero = {"kernel": jnp.array([1.0])}, {"kernel": jnp.zeros(1)}
    state = tx.init(params)
    for step, decay in {0: 0.04, 62_550: 0.22, 125_100: 0.4}.items():
        updates: Any = tx.update(zero, state, params, rate=1.0, step=step)[0]
        np.testing.assert_allclose(-updates["kernel"], decay, rtol=1e-6)


def test_a_rule_without_matches_lists_the_paths():
    with pytest.raises(ValueError, match=r"(?s)'scael\$'.*layer/kernel"):
        lars(no_decay=("scael$",)).init({"layer": {"kernel": jnp.ones(2)}})


def test_simclr_masks_of_resnet50():
    """Decayed and adapted: 53 convolutions, the head's dense kernels, nothing else."""
    from simclr_jax.methods.simclr import simclr
    from simclr_jax.models.catalog import ENCODERS

    method = simclr(ENCODERS["resnet50"](), layers=3)
    views = [jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)] * 2
    state = jax.eval_shape(method.init, jax.random.key(0), views)
    excluded = match_rules(NORMS_AND_BIASES, state.params)
    adapted = jax.tree.map(lambda x, out: 0 if out else x.ndim, state.params, excluded)
    ranks = [rank for rank in jax.tree.leaves(adapted) if rank]
    assert ranks.count(4) == 53
    assert ranks.count(2) == 3
    assert len(ranks) == 56


@pytest.mark.parametrize(
    ("rate_in_momentum", "kernel", "bias"),
    [
        (False, 0.9994736856, (0.451, -0.598)),  # as the released BYOL and MoCo v3
        (True, 0.9992803346, (0.433, -0.634)),  # as the released SimCLR
    ],
)
def test_lars_of_moco_v3(rate_in_momentum, kernel, bias):
    """The released code excludes tensors of rank 1; here they are excluded by path."""
    start = {"kernel": jnp.array([[1.0, 2], [3, 4]]), "bias": jnp.array([0.5, -0.5])}
    grads = {
        "kernel": jnp.array([[0.1, -0.2], [0.3, 0.4]]),
        "bias": jnp.array([0.1, 0.2]),
    }
    params, grads = {"dense": start}, {"dense": grads}
    tx = lars(
        weight_decay=0.1,
        rate_in_momentum=rate_in_momentum,
        no_decay=(r"/bias$",),
        no_adaptation=(r"/bias$",),
    )
    state, seen = tx.init(params), []
    for step, rate in enumerate((0.3, 0.1)):
        params, state = advance(tx, grads, state, params, rate=rate, step=step)
        seen.append(params["dense"])
    first = [[0.9996777483, 2], [2.9990332449, 3.9987109932]]
    np.testing.assert_allclose(seen[0]["kernel"], first, rtol=2e-7)
    np.testing.assert_allclose(seen[0]["bias"], (0.47, -0.56), rtol=1e-6)
    np.testing.assert_allclose(seen[1]["kernel"][0, 0], kernel, rtol=2e-7)
    np.testing.assert_allclose(seen[1]["bias"], bias, rtol=1e-6)
