"""From a config to a state on the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import config, door, run, sharding
from simclr_jax.evaluate import __main__ as evaluate
from simclr_jax.train.step import make_train_step
from tests.tools import small_batch


def one_step(placement):
    """Metrics and state after a step of a small run on all devices."""
    c, mesh = config.load("configs/quickstart.py"), sharding.make_mesh()
    config.override(c, [("placement", placement), ("data.batch_size", "32")])
    job = run.assemble(c, mesh, images=5000, classes=10)
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


def test_a_sharded_state_computes_the_same():
    whole, metrics = one_step("replicated")
    parts, same = one_step("fsdp")
    assert bytes_of_a_device(parts) < 0.5 * bytes_of_a_device(whole)
    for name in ("loss", "grad_norm", "probe_loss"):
        np.testing.assert_allclose(same[name], metrics[name], rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_probe_is_spared_unless_adapted():
    """SimCLR's supervised head: no decay by the optimiser, no trust ratio."""
    c = config.load("configs/simclr_cifar10.py")
    c.optim.weight_decay = 0.0
    moved = {}
    for adapted in (False, True):
        c.probe.adapted = adapted
        tx = run.build_optimiser(c, probing=True)
        ones = jnp.ones(3)
        params = {
            "probe": {"kernel": jnp.full((2, 2), 3.0), "bias": ones},
            "encoder": {"conv": {"kernel": ones}, "bn": {"scale": ones}},
        }
        grads = jax.tree.map(jnp.ones_like, params)
        updates, _ = tx.update(grads, tx.init(params), params, rate=1.0)
        moved[adapted] = -np.asarray(updates["probe"]["kernel"])[0, 0]
    np.testing.assert_allclose(moved[False], 1, rtol=1e-6)  # rate * gradient, no more
    np.testing.assert_allclose(moved[True], 0.001 * 3, rtol=1e-6)  # eta |w|/|g'| g'


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.optim.lr=1.0"], "belongs to the training"),
        (["--config.evaluate.knn.kk=3"], "Did you mean 'k'"),
        (["--protocol=linea"], "invalid choice"),
        (["--features=x"], "invalid choice"),
    ],
)
def test_mistakes_at_the_judging_door(tmp_path, in_process, words, message, capsys):
    c = config.load("configs/quickstart.py")
    run.claim(c, tmp_path)
    with pytest.raises((SystemExit, door.Mistake)) as error:
        evaluate.main([f"--workdir={tmp_path}", *words])
    code = getattr(error.value, "code", None) or door.report(error.value)
    assert code == door.USAGE
    assert message in capsys.readouterr().err


def test_a_place_without_a_run(tmp_path, in_process):
    with pytest.raises(door.Mistake, match=r"has no config\.json"):
        evaluate.main([f"--workdir={tmp_path}"])
    run.claim(config.load("configs/quickstart.py"), tmp_path)
    with pytest.raises(door.Mistake, match="no checkpoint yet"):
        evaluate.main([f"--workdir={tmp_path}"])
