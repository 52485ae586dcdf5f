"""From a config to a state on the mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import sharding
from simclr_jax.experiment import build, config
from simclr_jax.train.step import make_train_step
from tests.tools import small_batch


def one_step(placement) -> tuple[Any, dict[str, float]]:
    """Metrics and state after a step of a small run on all devices."""
    c, mesh = config.load("configs/quickstart.py"), sharding.make_mesh()
    config.override(c, [("placement", placement), ("data.batch_size", "32")])
    job = build.assemble(c, mesh, images=5000, classes=10)
    with jax.set_mesh(mesh):
        step = jax.jit(
            make_train_step(job.method, job.tx, lambda step: 1e-3),
            donate_argnums=0,
            out_shardings=(job.placement, sharding.replicated(mesh)),
        )
        batch = jax.device_put(small_batch(32, 32), sharding.by_batch(mesh))
        state, metrics = step(job.create(), batch)
        return state, {name: float(x) for name, x in metrics.items()}


def bytes_of_a_device(state):
    device = jax.devices()[0]
    shards = [s for x in jax.tree.leaves(state.params) for s in x.addressable_shards]
    return sum(s.data.nbytes for s in shards if s.device == device)


def test_a_sharded_state_gives_the_same_numbers():
    whole, metrics = one_step("replicated")
    parts, same = one_step("fsdp")
    assert bytes_of_a_device(parts) < 0.5 * bytes_of_a_device(whole)
    for name in ("loss", "grad_norm", "probe_loss"):
        np.testing.assert_allclose(same[name], metrics[name], rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_probe_has_no_decay_or_adaptation_unless_adapted():
    """SimCLR's supervised head: no decay by the optimiser, no trust ratio."""
    c = config.load("configs/simclr_cifar10.py")
    c.optim.weight_decay = 0.0
    moved = {}
    for adapted in (False, True):
        c.probe.adapted = adapted
        tx = build.build_optimiser(c, images=50_000, probing=True)
        ones = jnp.ones(3)
        params = {
            "probe": {"kernel": jnp.full((2, 2), 3.0), "bias": ones},
            "encoder": {"conv": {"kernel": ones}, "bn": {"scale": ones}},
        }
        grads = jax.tree.map(jnp.ones_like, params)
        updates: Any = tx.update(grads, tx.init(params), params, rate=1.0, step=0)[0]
        moved[adapted] = -np.asarray(updates["probe"]["kernel"])[0, 0]
    np.testing.assert_allclose(moved[False], 1, rtol=1e-6)  # rate * gradient, no more
    np.testing.assert_allclose(moved[True], 0.001 * 3, rtol=1e-6)  # eta |w|/|g'| g'


def test_a_method_gets_the_steps_of_the_run():
    """The ema of DINO's teacher grows to 1 at the end of the run."""
    c = config.load("configs/quickstart.py")
    c.optim.length = "moco"
    config.override(c, [("method.name", "dino"), ("method.prototypes", "64")])
    method = build.build_method(c, images=5000, classes=10)
    assert method.ema
    np.testing.assert_allclose(method.ema(0), 0.996, rtol=1e-6)
    np.testing.assert_allclose(method.ema(30 * 19 // 2), 0.998, rtol=1e-6)
    assert method.ema(30 * 19) == 1
    assert build.step_counts(c, 5000) == {"total_steps": 570, "steps_per_epoch": 19}
    mesh = sharding.make_mesh(jax.devices()[:1])
    config.override(c, [("optim.delayed", "('^prototypes/',)"), ("optim.clip", "3.0")])
    job = build.assemble(c, mesh, images=5000, classes=10)
    assert job.shapes.params["prototypes"]["v"].shape == (64, 32)
    assert job.shapes.method_state.shape == (64,)


def test_rules_of_the_config_reach_the_optimiser():
    """A frozen stem, a late head at the peak rate, clipped gradients, a floor."""
    c = config.load("configs/quickstart.py")
    c.optim.length = "moco"
    changes = [
        ("optim.name", "sgd"),
        ("optim.nesterov", "false"),
        ("optim.momentum", "0.0"),
        ("optim.frozen", "('^encoder/conv1/',)"),
        ("optim.delayed", "('^projector/dense2/',)"),
        ("optim.delay_epochs", "2.0"),
        ("optim.constant", "('^projector/dense1/',)"),
        ("optim.weight_decay", "0.0"),
        ("optim.clip", "5.0"),
        ("optim.schedule", "dino"),
        ("optim.lr_end", "1e-4"),
    ]
    config.override(c, changes)
    ones = jnp.ones(4)
    params = {
        "encoder": {"bn1": {"scale": ones}, "conv1": {"kernel": ones}},
        "projector": {"dense1": {"kernel": ones}, "dense2": {"bias": ones}},
    }
    grads = jax.tree.map(lambda x: 10 * x, params)
    tx = build.build_optimiser(c, images=5000, probing=False)
    schedule, state = build.build_schedule(c, images=5000), tx.init(params)
    for step in (37, 38):  # epochs of 19 steps, two of them to warm up
        rate = schedule(step)
        np.testing.assert_allclose(rate, 0.005, rtol=1e-6)
        moved, state = tx.update(grads, state, params, rate=rate / 2, step=step)
        norms = [float(jnp.linalg.norm(x)) for x in jax.tree.leaves(moved)]
        late = 0.0025 * 5 * (step == 38)
        np.testing.assert_allclose(norms, [0.0125, 0, 0.025, late], rtol=1e-5)
    np.testing.assert_allclose(schedule(570), 1e-4, rtol=1e-6)
