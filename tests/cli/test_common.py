"""Arguments, errors and exit codes that all commands share."""

import signal
import subprocess
import sys

import jax
import pytest
import tensorflow as tf

from simclr_jax.cli import common, runtime
from simclr_jax.data.errors import UnreadablePicture
from simclr_jax.multihost import StorageNotShared
from simclr_jax.storage.errors import (
    BucketDenied,
    BucketError,
    BucketUnavailable,
    ObjectMissing,
)
from simclr_jax.train.checkpoint_errors import (
    CheckpointError,
    CheckpointUnavailable,
)


@pytest.fixture
def parser():
    parser = common.Parser(prog="simclr-jax x", description="x", example="x")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--fast", action="store_true")
    return parser


def test_changes_of_the_config_are_collected_in_order(parser):
    arguments, changes = parser.parse_with_changes(
        ["--config.b.c=2", "--workdir", "w", "--config.a", "1=x"]
    )
    assert arguments.workdir == "w"
    assert changes == [("b.c", "2"), ("a", "1=x")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdr", "x"], "unknown argument '--workdr'. Did you mean --workdir?"),
        (["--workdir=a", "a.b=3"], "unknown argument 'a.b=3'. Settings are written"),
        (["--workdir=a", "b"], "unknown argument 'b'. There are: --fast, --help"),
        (["--workdir=a", "--config.seed"], "--config.seed needs a value"),
        (["--workdir=a", "--workdir", "b"], "--workdir: given more than once"),
        (["--workdir=a", "--fast", "--fast"], "--fast: given more than once"),
        (["--workdir=a", "--config.a=1", "--config.a=1"], "--config.a: given more"),
        (["--workdir=a", "--config.a=1", "--config.a", "2"], "--config.a: given more"),
    ],
)
def test_wrong_arguments(parser, arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        parser.parse_with_changes(arguments)
    assert error.value.code == common.USAGE
    assert message in capsys.readouterr().err


DENIED = BucketDenied("read", "gs://b/x", "403")
READ = ("read", "gs://b/x", 1, "403")
UNAVAILABLE = BucketUnavailable("read", "gs://b/x", "503")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (common.UsageError("no"), common.USAGE, "error: no"),
        (StorageNotShared("w"), common.USAGE, "error: w"),
        (common.Preempted("later"), common.TRY_AGAIN, "try again: later"),
        (FloatingPointError("not finite"), common.FAILED, "error: not finite"),
        (UnreadablePicture("1.png"), common.FAILED, "error: 1.png"),
        (OSError("disk"), common.FAILED, "error: disk"),
        (tf.errors.UnavailableError(None, None, "far"), common.FAILED, "error: far"),
        (ZeroDivisionError("ours"), common.FAILED, "ZeroDivisionError"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (UNAVAILABLE, common.TRY_AGAIN, "try again: gs://b/x"),
        (DENIED, common.TRY_AGAIN, "try again: gs://b/x"),
        (ObjectMissing("read", "gs://b/x", "404"), common.FAILED, "error: gs://b/x"),
        (BucketError("read", "gs://b/x", "400"), common.FAILED, "error: gs://b/x"),
        (CheckpointUnavailable(*READ), common.TRY_AGAIN, "try again: Checkpoint 1"),
        (CheckpointError(*READ), common.FAILED, "error: Checkpoint 1"),
    ],
)
def test_exit_codes(error, code, text, capsys):
    assert runtime.report(error) == code
    message = capsys.readouterr().err
    assert message.startswith(text)
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("text", ["Gloo AllGather failed", "UNAVAILABLE: gone"])
def test_a_lost_peer_is_to_try_again(monkeypatch, text):
    assert runtime.report(RuntimeError(text)) == common.FAILED
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert runtime.report(RuntimeError(text)) == common.TRY_AGAIN


def test_too_little_memory_is_one_line_with_remedies(capsys):
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 9 GiB.\nat 7")
    assert runtime.report(full) == common.FAILED
    message = capsys.readouterr().err
    assert "optim.microbatches" in message
    assert "9 GiB" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "started", "expected"),
    [
        (ValueError("x"), False, common.UsageError),
        (OSError("x"), False, common.UsageError),
        (UnreadablePicture("x"), False, UnreadablePicture),
        (KeyError("x"), False, KeyError),
        (UNAVAILABLE, False, BucketUnavailable),
        (DENIED, False, common.UsageError),
        (DENIED, True, BucketDenied),
    ],
)
def test_which_errors_are_the_caller_s(error, started, expected):
    with pytest.raises(expected), common.usage_errors(started=started):
        raise error


def test_sigterm_before_the_first_step_is_to_try_again():
    before = signal.getsignal(signal.SIGTERM)
    try:
        runtime.exit_on_sigterm()
        with pytest.raises(common.Preempted, match="before the first step"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


ENDINGS = """
import atexit, sys, threading, time
from simclr_jax.cli import common

def main(argv):
    atexit.register(lambda: print("handler"))
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    print("main")
    if argv:
        raise SystemExit(int(argv[0]))

common.run_and_exit(main)
print("after")
"""


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["3"], 3)])
def test_the_process_ends_with_its_code_and_all_output(arguments, code):
    process = subprocess.run(
        [sys.executable, "-c", ENDINGS, *arguments], capture_output=True, text=True
    )
    assert process.returncode == code
    lines = ["main", "after", "thread", "handler"] if code == 0 else ["main"]
    assert process.stdout.split() == lines
    assert process.stderr == ""
