"""Rules by path around an optimiser."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.train.optim import adamw, lars, sgd
from simclr_jax.train.rules import clip_per_array, match_rules, with_rules

PARAMS = {
    "encoder": {"patch": {"kernel": jnp.array([1.0, 2.0])}},
    "predictor": {"dense": {"kernel": jnp.array([1.0, 2.0])}},
    "prototypes": {"v": jnp.array([1.0, 2.0])},
    "rest": {"kernel": jnp.array([1.0, 2.0]), "bias": jnp.array([1.0, 2.0])},
}


def steps(tx, rates, grad=(0.1, -0.2)):
    """[(parameters, optimiser state)] after each step with a constant gradient."""
    params, state, seen = PARAMS, tx.init(PARAMS), []
    grads = jax.tree.map(lambda _: jnp.array(grad), params)
    update = jax.jit(tx.update)
    for step, rate in enumerate(rates):
        updates, state = update(grads, state, params, rate=rate, step=step)
        params = optax.apply_updates(params, updates)
        seen.append((params, state))
    return seen


OPTIMISERS = {
    "lars": lambda: lars(weight_decay=0.5, no_decay=(r"/bias$",), no_adaptation=()),
    "sgd": lambda: sgd(weight_decay=0.5, no_decay=(r"/bias$",)),
    "adamw": lambda: adamw(weight_decay=0.5, no_decay=(r"/bias$",), total_steps=9),
}


def test_rules_match_paths():
    params = {
        "encoder": {"bn": {"scale": 0, "bias": 0}, "conv": {"kernel": 0}},
        "probe": {"kernel": 0, "bias": 0},
    }
    matches = match_rules((r"/(scale|bias)$", "^probe/"), params)
    assert matches == {
        "encoder": {"bn": {"scale": True, "bias": True}, "conv": {"kernel": False}},
        "probe": {"kernel": True, "bias": True},
    }


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_frozen_parameters_have_no_updates_and_no_moments(name):
    tx = with_rules(OPTIMISERS[name](), frozen=("patch",), peak=0.1)
    moved, plain = steps(tx, [0.1] * 3), steps(OPTIMISERS[name](), [0.1] * 3)
    for (params, _), (others, _) in zip(moved, plain, strict=True):
        np.testing.assert_array_equal(params["encoder"]["patch"]["kernel"], [1, 2])
        for branch in ("predictor", "prototypes", "rest"):
            for a, b in zip(
                jax.tree.leaves(params[branch]),
                jax.tree.leaves(others[branch]),
                strict=True,
            ):
                np.testing.assert_allclose(a, b, rtol=1e-6)
    vectors = [x for x in jax.tree.leaves(moved[-1][1]) if x.ndim]
    plain_vectors = [x for x in jax.tree.leaves(plain[-1][1]) if x.ndim]
    assert (
        len(vectors) == len(plain_vectors) * 4 // 5
    )  # of five parameters one has none


def test_late_parameters_are_updated_as_if_the_run_started_late():
    """The frozen leaf of DINO's AdamW: no decay, no moments and no count before."""
    tx = adamw(weight_decay=0.5, no_decay=(r"/bias$",), total_steps=9)
    tx = with_rules(tx, delayed=("^prototypes/",), delay_steps=2.0, peak=0.1)
    seen = [params["prototypes"]["v"] for params, _ in steps(tx, [0.1] * 5)]
    np.testing.assert_array_equal(seen[0], [1, 2])
    np.testing.assert_array_equal(seen[1], [1, 2])
    np.testing.assert_allclose(seen[2], [0.85, 2.0], rtol=1e-6)
    usual = adamw(weight_decay=0.5, no_decay=(), total_steps=9)
    others = [params["prototypes"]["v"] for params, _ in steps(usual, [0.1] * 3)]
    np.testing.assert_allclose(seen[2:], others, rtol=1e-6)


def test_moments_of_late_parameters_are_zero_before_their_first_step():
    tx = with_rules(
        sgd(no_decay=()), delayed=("^prototypes/",), delay_steps=2, peak=0.1
    )
    states = [state for _, state in steps(tx, [0.1] * 3)]
    traces = [
        optax.tree.get(state.inner_states["late"], "trace")["prototypes"]["v"]
        for state in states
    ]
    np.testing.assert_array_equal(traces[0], 0)
    np.testing.assert_array_equal(traces[1], 0)
    np.testing.assert_allclose(traces[2], [0.1, -0.2])


def test_constant_parameters_have_the_peak_rate():
    tx = sgd(momentum=0.0, nesterov=False, no_decay=())
    tx = with_rules(tx, constant=("^predictor/",), peak=0.1)
    params, _ = steps(tx, [0.0, 0.1, 0.05])[-1]
    grad = np.array([0.1, -0.2])
    np.testing.assert_allclose(
        params["predictor"]["dense"]["kernel"], [1, 2] - 0.3 * grad, rtol=1e-6
    )
    np.testing.assert_allclose(
        params["rest"]["kernel"], [1, 2] - 0.15 * grad, rtol=1e-6
    )


def test_each_array_is_clipped_by_its_own_norm():
    grads = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([[0.3], [0.4]])}
    tx = clip_per_array(1.0)
    clipped: Any = tx.update(grads, tx.init(grads))[0]
    np.testing.assert_allclose(clipped["a"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(clipped["b"], grads["b"])

    tx = sgd(momentum=0.0, nesterov=False, no_decay=())
    params, _ = steps(with_rules(tx, peak=1.0, clip=1.0), [1.0], grad=(3.0, 4.0))[0]
    np.testing.assert_allclose(params["rest"]["bias"], [0.4, 1.2], rtol=1e-6)


def test_without_rules_the_optimiser_is_returned():
    tx = sgd()
    assert with_rules(tx, peak=0.1) is tx


@pytest.mark.parametrize("rule", ["frozen", "delayed", "constant"])
def test_frozen_late_and_constant_rules_must_match(rule):
    rules: dict[str, Any] = {rule: ("^pach/",)}
    tx = with_rules(sgd(no_decay=()), peak=0.1, **rules)
    with pytest.raises(ValueError, match=r"(?s)'\^pach/'.*encoder/patch/kernel"):
        tx.init(PARAMS)


def test_a_parameter_must_not_match_two_rules():
    tx = with_rules(sgd(no_decay=()), frozen=("patch",), delayed=("encoder",), peak=0.1)
    with pytest.raises(ValueError, match=r"'patch'.* and .*'encoder'"):
        tx.init(PARAMS)


# Multipliers of the rate.

RATES = [0.1, 0.2, 0.05, 0.0, 0.1]


def decayed(params):
    return jax.tree.map_with_path(lambda path, _: path[-1].key != "bias", params)


OPTAX = {  # rate -> optax's own optimiser
    "lars": lambda rate: optax.lars(
        rate, 0.5, weight_decay_mask=decayed, trust_coefficient=0.001, momentum=0.9
    ),
    "lars of byol": lambda rate: optax.chain(
        optax.add_decayed_weights(0.5, decayed),
        optax.scale_by_trust_ratio(trust_coefficient=0.001),
        optax.trace(0.9),
        optax.scale_by_learning_rate(rate),
    ),
    "sgd": lambda rate: optax.chain(
        optax.add_decayed_weights(0.5, decayed), optax.sgd(rate, 0.9, nesterov=True)
    ),
    "adamw": lambda rate: optax.adamw(rate, weight_decay=0.5, mask=decayed),
}
OURS = OPTIMISERS | {
    "lars of byol": lambda: lars(
        weight_decay=0.5,
        rate_in_momentum=False,
        no_decay=(r"/bias$",),
        no_adaptation=(),
    )
}


@pytest.mark.parametrize("name", list(OPTAX))
def test_multipliers_are_optimisers_of_other_rates(name):
    """The trajectories of optax's optimisers, one a rate; the state is unchanged."""
    rules = ("^encoder/=0.1", "^prototypes/=1e-1", "bias$=3", "^(?=pred).*kernel=1")
    tx = with_rules(OURS[name](), multipliers=rules, peak=0.1)
    factors = jax.tree.map(lambda _: 1.0, PARAMS)
    factors["encoder"]["patch"]["kernel"] = factors["prototypes"]["v"] = 0.1
    factors["rest"]["bias"] = 3.0

    def scheduled(factor):
        return OPTAX[name](lambda count: factor * jnp.array(RATES)[count])

    parts: Any = {factor: scheduled(factor) for factor in (0.1, 1.0, 3.0)}
    reference = optax.with_extra_args_support(optax.multi_transform(parts, factors))
    for (params, _), (expected, _) in zip(
        steps(tx, RATES), steps(reference, RATES), strict=True
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6),
            params,
            expected,
        )
    state, plain = tx.init(PARAMS), OURS[name]().init(PARAMS)
    assert jax.tree.structure(state) == jax.tree.structure(plain)


def test_multipliers_apply_to_delayed_and_constant_parameters_too():
    tx = with_rules(
        sgd(momentum=0.0, nesterov=False, no_decay=()),
        frozen=("^encoder/",),
        delayed=("^prototypes/",),
        delay_steps=1,
        constant=("^predictor/",),
        multipliers=("^(encoder|prototypes|predictor)/=0.5",),
        peak=0.1,
    )
    params, _ = steps(tx, [0.0, 0.04, 0.02])[-1]
    grad = np.array([0.1, -0.2])
    moved = jax.tree.map(lambda x: (np.array([1, 2]) - x) / grad, params)
    np.testing.assert_array_equal(moved["encoder"]["patch"]["kernel"], 0)
    shares = {"prototypes": 0.5 * 0.06, "predictor": 0.5 * 0.3, "rest": 0.06}
    for branch, share in shares.items():
        for x in jax.tree.leaves(moved[branch]):
            np.testing.assert_allclose(x, share, rtol=2e-5)


@pytest.mark.parametrize(
    ("multipliers", "message"),
    [
        (("^encoder/",), r"'\^encoder/' is not REGEX=FACTOR"),
        (("=0.1",), "REGEX=FACTOR"),
        (("^encoder/=fast",), "REGEX=FACTOR"),
        (("^encoder/=0",), "optim.frozen"),
        (("^encoder/=-0.1",), "REGEX=FACTOR"),
        (("^encoder/=inf",), "REGEX=FACTOR"),
        (("^encoder/=nan",), "REGEX=FACTOR"),
        (("^encodr/=0.1",), r"(?s)'\^encodr/' matches no .*encoder/patch/kernel"),
        (("(=0.1",), "not a regular expression"),
        (("^encoder/=0.1", "patch=0.2"), r"'\^encoder/'.* and .*'patch'"),
    ],
)
def test_errors_of_multipliers(multipliers, message):
    with pytest.raises(ValueError, match=message):
        with_rules(sgd(no_decay=()), multipliers=multipliers, peak=0.1).init(PARAMS)
