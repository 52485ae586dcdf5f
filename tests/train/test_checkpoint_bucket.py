"""Checkpoints in a bucket with faults: no step waits, no state is lost."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from orbax.checkpoint._src.futures.future import _SignalingThread, set_signals

from simclr_jax.storage import bucket, client, retry
from simclr_jax.train import checkpoint
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.checkpoint_errors import CheckpointUnavailable
from simclr_jax.train.checkpoint_reader import newest, restore_latest
from tests.buckets.emulator import Fault

# Orbax's other threads report to the event loop that the failed one has closed.
UNRAISABLE = "ignore::pytest.PytestUnraisableExceptionWarning"
pytestmark = pytest.mark.filterwarnings(UNRAISABLE)
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
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state(0)
    )


def check(step):
    restored, number = restore_latest(FOLDER, template())
    assert number == step
    np.testing.assert_array_equal(restored["w"], state(step)["w"])


def train(checkpoints, steps, pause=0.02):
    """Polls and saves as the loop in train.loop does."""
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


def test_newest_and_permanent_checkpoints_are_kept(cloud):
    train(Checkpoints(FOLDER, every=2, keep=2, keep_every=4), 9)
    names = {name.split("/")[2] for name in cloud.objects("bucket")} - {""}
    assert names == {"4", "8", "9"}
    check(9)
    assert newest(FOLDER) == 9


def test_saving_and_polling_send_no_requests_from_the_main_thread(cloud, monkeypatch):
    checkpoints = Checkpoints(FOLDER, every=5, keep=2)
    main, requests = threading.current_thread(), []

    def with_retries(operation, path, call, **options):
        if threading.current_thread() is main:
            requests.append(f"{path} {operation}")
        return retry.with_retries(operation, path, call, **options)

    monkeypatch.setattr(bucket, "with_retries", with_retries)
    monkeypatch.setattr(client, "with_retries", with_retries)
    for step in range(1, 21):
        checkpoints.poll(step, state(step))
        if checkpoints.due(step):
            checkpoints.save(step, state(step))
    checkpoints.finish(20, state(20))
    assert requests == []
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
def test_temporary_faults_lose_no_checkpoint(cloud, fault):
    checkpoints = Checkpoints(FOLDER, every=5)
    cloud.faults = [fault]
    train(checkpoints, 20)
    check(20)


def test_a_revoked_token_of_tensorstore_is_avoided_by_an_upload(cloud, capsys):
    checkpoints = Checkpoints(FOLDER, every=5)
    cloud.faults = [Fault("^POST .*tensorstore", status=401)]
    train(checkpoints, 20)
    check(20)
    messages = capsys.readouterr().err
    assert "Checkpoint 5 could not be written" in messages
    assert "401 Unauthorized" in messages
    assert "is written" in messages


def test_polling_raises_the_error_of_a_failed_save(cloud):
    checkpoints = Checkpoints(FOLDER, every=5)
    checkpoints.save(5, state(5))
    checkpoints.wait()
    cloud.permissions.remove("storage.objects.create")
    checkpoints.save(10, state(10))
    with pytest.raises(CheckpointUnavailable, match="403 Forbidden") as error:
        poll_until(checkpoints, 3000)
    assert len(str(error.value).splitlines()) == 1
    assert (error.value.path, error.value.step) == (FOLDER, 10)
    cloud.permissions.add("storage.objects.create")
    check(5)


def test_a_deleted_bucket_is_unavailable(cloud):
    checkpoints = Checkpoints(FOLDER, every=5)
    cloud.delete_bucket("bucket")
    checkpoints.save(5, state(5))
    with pytest.raises(CheckpointUnavailable, match="no such bucket"):
        checkpoints.finish(5, state(5))


def test_retries_of_saves_time_out(cloud, monkeypatch):
    monkeypatch.setenv(retry.PATIENCE, "1")
    checkpoints = Checkpoints(FOLDER, every=5)
    cloud.faults = [Fault("^POST .*tensorstore", status=401), Fault(status=503)]
    checkpoints.save(5, state(5))
    with pytest.raises(CheckpointUnavailable, match="503"):
        checkpoints.finish(5, state(5))


def test_a_partial_checkpoint_is_ignored_and_removed(cloud):
    train(Checkpoints(FOLDER, every=5), 5)
    cloud.put("bucket", "run/checkpoints/10/state/d/1", b"half")
    assert newest(FOLDER) == 5
    checkpoints = Checkpoints(FOLDER, every=5)
    assert checkpoints.latest == 5
    checkpoints.save(10, state(10))
    checkpoints.close()
    assert "run/checkpoints/10/state/d/1" not in cloud.objects("bucket")
    check(10)


def test_before_commit_is_called_before_a_checkpoint_is_complete(cloud):
    complete = []

    def copy():
        names = [*cloud.objects("bucket")]
        complete.append(f"run/checkpoints/5/{bucket.COMMIT}" in names)

    train(Checkpoints(FOLDER, every=5, before_commit=copy), 5)
    assert complete == [False]


def test_truncated_reads_are_repeated(cloud):
    train(Checkpoints(FOLDER, every=5), 5)
    cloud.faults = [Fault("^GET .*alt=media.*tensorstore", truncate=100, count=3)]
    check(5)


def test_the_directory_may_be_a_path(cloud):
    train(Checkpoints(epath.Path(FOLDER), every=5), 5)
    check(5)


def test_a_step_may_be_saved_repeatedly(cloud):
    """As at the end of a run, or after an error at a step that is being saved."""
    checkpoints = Checkpoints(FOLDER, every=5)
    cloud.faults = [Fault("^POST .*tensorstore", status=401, count=1)]
    checkpoints.save(5, state(5))
    checkpoints.save(5, state(5))
    threading.Event().wait(2.0)
    checkpoints.save(5, state(5))  # the first save has failed; not polled yet
    checkpoints.finish(5, state(5))
    checkpoints.close()
    check(5)


def test_a_failed_removal_does_not_remove_the_new_checkpoint(cloud, monkeypatch):
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


def test_a_partially_removed_checkpoint_is_ignored(cloud, monkeypatch):
    train(Checkpoints(FOLDER, every=5), 10)
    monkeypatch.setenv(retry.PATIENCE, "0.2")
    cloud.faults = [Fault("^DELETE .*state", status=503)]
    with pytest.raises(OSError, match="503"):
        epath.Path(f"{FOLDER}/10").rmtree()
    cloud.faults = []
    assert newest(FOLDER) == 5
    check(5)


def test_orbax_requests_the_bucket_once(cloud):
    train(Checkpoints(FOLDER, every=5), 5)
    lookups = [r for r in cloud.requests if "/b/bucket?projection" in r.path]
    assert len(lookups) == 1
