"""Checkpoints in a bucket that misbehaves: no step waits, no state is lost."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from orbax.checkpoint._src.futures.future import _SignalingThread, set_signals

from simclr_jax.storage import bucket, gcs_path, retry
from simclr_jax.train import checkpoint
from simclr_jax.train.checkpoint import (
    Checkpoints,
    CheckpointUnavailable,
    newest,
    restore_latest,
)
from tests.buckets.emulator import Fault

# Orbax's other writers report to an event loop that the failed one has closed.
UNHEARD = "ignore::pytest.PytestUnraisableExceptionWarning"
pytestmark = pytest.mark.filterwarnings(UNHEARD)
FOLDER = "gs://bucket/run/checkpoints"


@pytest.fixture(autouse=True)
def _short_pause(monkeypatch):
    monkeypatch.setattr(checkpoint, "FIRST_PAUSE", 0.05)


@pytest.fixture(autouse=True)
def _no_orbax_threads_left(cloud):
    """Lets Orbax's threads of a save whose directory could not be created end.

    They wait five minutes for it and then drop coroutines that were never awaited: the
    warning would appear in another test, and the process would not exit before.
    """
    yield
    cloud.reset()
    threads = [x for x in threading.enumerate() if isinstance(x, _SignalingThread)]
    for thread in threads:
        set_signals(thread._receive_signals, operation_id=thread._operation_id)
    for thread in threads:
        threading.Thread.join(thread)


def state(step):
    return {"w": jnp.arange(1000.0) + step, "step": jnp.int32(step)}


def template():
    mesh = jax.sharding.Mesh(jax.devices()[:1], "x")
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state(0)
    )


def check(step):
    found, number = restore_latest(FOLDER, template())
    assert number == step
    np.testing.assert_array_equal(found["w"], state(step)["w"])


def trained(checkpoints, steps, pause=0.02):
    """A loop that saves when it is time to, as train.loop does."""
    for step in range(1, steps + 1):
        checkpoints.poll(step, state(step))
        if checkpoints.due(step):
            checkpoints.save(step, state(step))
        threading.Event().wait(pause)
    checkpoints.finish(steps, state(steps))
    checkpoints.close()


def poll_until(checkpoints, steps):
    for step in range(11, steps):
        checkpoints.poll(step, state(step))
        threading.Event().wait(0.01)


def test_saved_kept_and_removed(cloud):
    trained(Checkpoints(FOLDER, every=2, keep=2, keep_every=4), 9)
    names = {name.split("/")[2] for name in cloud.objects("bucket")} - {""}
    assert names == {"4", "8", "9"}
    check(9)
    assert newest(FOLDER) == 9


def test_the_loop_asks_the_storage_nothing(cloud, monkeypatch):
    """From the first save on; the work is other threads'."""
    checkpoints = Checkpoints(FOLDER, every=5, keep=2)
    main, asked = threading.current_thread(), []
    real = retry.attempt

    def attempt(operation, path, call, **options):
        if threading.current_thread() is main:
            asked.append(f"{path} {operation}")
        return real(operation, path, call, **options)

    monkeypatch.setattr(gcs_path.bucket, "attempt", attempt)
    for step in range(1, 21):
        checkpoints.poll(step, state(step))
        if checkpoints.due(step):
            checkpoints.save(step, state(step))
    checkpoints.finish(20, state(20))
    assert asked == []
    checkpoints.close()


@pytest.mark.usefixtures("broken_connections")
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503, count=30),
        Fault("^(POST|PUT) ", status=429, count=20),
        Fault("^(POST|PUT) ", reset=True, count=5),
        Fault(status=401, count=30),
        Fault("google-cloud", status=500, count=10),
    ],
    ids=lambda fault: str(vars(fault)),
)
def test_what_passes_costs_nothing(cloud, fault):
    checkpoints = Checkpoints(FOLDER, every=5)
    cloud.faults = [fault]
    trained(checkpoints, 20)
    check(20)


def test_a_token_that_tensorstore_will_not_give_up(cloud, capsys):
    """Its time is an hour; the state comes to the bucket by this machine's disk."""
    checkpoints = Checkpoints(FOLDER, every=5)
    cloud.faults = [Fault("^POST .*tensorstore", status=401)]
    trained(checkpoints, 20)
    check(20)
    told = capsys.readouterr().err
    assert "Checkpoint 5 could not be written" in told
    assert "401 Unauthorized; the state will be saved again" in told
    assert "is written." in told


def test_a_failed_save_is_noticed_before_the_next_one(cloud):
    """Not a thousand steps later; the one before stays."""
    checkpoints = Checkpoints(FOLDER, every=5)
    checkpoints.save(5, state(5))
    checkpoints.wait()
    cloud.permissions.remove("storage.objects.create")
    checkpoints.save(10, state(10))
    with pytest.raises(CheckpointUnavailable, match="403 Forbidden") as caught:
        poll_until(checkpoints, 3000)
    assert len(str(caught.value).splitlines()) == 1
    assert FOLDER in str(caught.value)
    cloud.permissions.add("storage.objects.create")
    check(5)


def test_a_bucket_that_is_deleted(cloud):
    checkpoints = Checkpoints(FOLDER, every=5)
    cloud.delete_bucket("bucket")
    checkpoints.save(5, state(5))
    with pytest.raises(CheckpointUnavailable, match="no such bucket"):
        checkpoints.finish(5, state(5))


def test_patience_ends(cloud, monkeypatch):
    monkeypatch.setenv(retry.PATIENCE, "1")
    checkpoints = Checkpoints(FOLDER, every=5)
    cloud.faults = [Fault("^POST .*tensorstore", status=401), Fault(status=503)]
    checkpoints.save(5, state(5))
    with pytest.raises(CheckpointUnavailable, match="503"):
        checkpoints.finish(5, state(5))


def test_what_is_half_written_is_no_checkpoint_and_goes(cloud):
    trained(Checkpoints(FOLDER, every=5), 5)
    cloud.put("bucket", "run/checkpoints/10/state/d/1", b"half")
    assert newest(FOLDER) == 5
    again = Checkpoints(FOLDER, every=5)
    assert again.latest == 5
    again.save(10, state(10))
    again.close()
    assert "run/checkpoints/10/state/d/1" not in cloud.objects("bucket")
    check(10)


def test_the_log_is_there_before_a_checkpoint_counts(cloud):
    seen = []

    def copy():
        names = [*cloud.objects("bucket")]
        seen.append(f"run/checkpoints/5/{bucket.COMMIT}" in names)

    trained(Checkpoints(FOLDER, every=5, before_commit=copy), 5)
    assert seen == [False]


def test_a_checkpoint_read_in_pieces(cloud):
    trained(Checkpoints(FOLDER, every=5), 5)
    cloud.faults = [Fault("^GET .*alt=media.*tensorstore", truncate=100, count=3)]
    check(5)


def test_a_folder_as_text_or_path(cloud):
    trained(Checkpoints(epath.Path(FOLDER), every=5), 5)
    check(5)


def test_the_same_step_is_asked_for_again(cloud):
    """At the end of a run, and where a failure comes at a step that is being saved."""
    checkpoints = Checkpoints(FOLDER, every=5)
    cloud.faults = [Fault("^POST .*tensorstore", status=401, count=1)]
    checkpoints.save(5, state(5))
    checkpoints.save(5, state(5))
    while not checkpoints._writing.end.done():
        threading.Event().wait(0.01)
    checkpoints.save(5, state(5))  # has failed, and nobody has looked yet
    checkpoints.finish(5, state(5))
    checkpoints.close()
    check(5)


def test_a_removal_that_fails_takes_no_complete_checkpoint_along(cloud, monkeypatch):
    monkeypatch.setenv(retry.PATIENCE, "0.5")
    checkpoints = Checkpoints(FOLDER, every=5, keep=1)
    checkpoints.save(5, state(5))
    checkpoints.wait()
    cloud.faults = [Fault("^DELETE ", status=503)]
    checkpoints.save(10, state(10))
    with pytest.raises(CheckpointUnavailable, match="503"):
        poll_until(checkpoints, 3000)
    cloud.faults = []
    check(10)


def test_what_is_removed_halfway_does_not_count(cloud, monkeypatch):
    trained(Checkpoints(FOLDER, every=5), 10)
    monkeypatch.setenv(retry.PATIENCE, "0.2")
    cloud.faults = [Fault("^DELETE .*state", status=503)]
    with pytest.raises(OSError, match="503"):
        epath.Path(f"{FOLDER}/10").rmtree()
    cloud.faults = []
    assert newest(FOLDER) == 5
    check(5)


def test_orbax_looks_buckets_up_by_our_client(cloud):
    trained(Checkpoints(FOLDER, every=5), 5)
    looked = [r for r in cloud.requests if "/b/bucket?projection" in r.path]
    assert len(looked) == 1
