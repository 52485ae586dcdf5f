"""Whole commands on a bucket: the real clients, over TLS, with faults.

`make test-buckets` runs them; they need Linux, root and a mount namespace.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import safetensors.numpy

from simclr_jax import sharding
from simclr_jax.experiment import build, config
from simclr_jax.experiment.workdir import data_sizes, read_saved
from simclr_jax.train.checkpoint_reader import restore_latest
from tests.buckets.emulator import Emulator, Fault
from tests.tools import last_of_each, plain, with_devices
from tests.zoo.test_importing import vit_mini

pytestmark = pytest.mark.buckets

ROOT = pathlib.Path(__file__).parents[2]
RUN = (
    "--config.data.batch_size=16",
    "--config.encoder.channels=4",
    "--config.method.hidden=16",
    "--config.log_every=1",
    "--config.checkpoint.every=20",
    "--config.steps=60",
)
PRETRAIN = ("-m", "simclr_jax", "pretrain", "--config", "configs/quickstart.py", *RUN)
EVALUATE = ("-m", "simclr_jax", "evaluate", "--config.data.eval_split=test[:100]")


@pytest.fixture(scope="module")
def server():
    if reason := Emulator.why_not():
        pytest.skip(reason)
    with Emulator(["bucket", "other"], tls=True) as emulator:
        yield emulator


@pytest.fixture
def emulator(server):
    server.reset()
    server.check_tokens = True
    return server


class Command:
    """A command of the package in another process, with the emulator as its storage."""

    def __init__(self, emulator, folder, *arguments, **variables):
        self.log = folder / f"log-{time.monotonic_ns()}"
        with self.log.open("wb") as log:
            options = last_of_each([str(argument) for argument in arguments])
            self.process = subprocess.Popen(
                emulator.command([sys.executable, *options]),
                env=with_devices(1) | emulator.environment | variables,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    @property
    def text(self):
        """Its output, without the log lines of TensorStore."""
        lines = self.log.read_text().splitlines()
        return "\n".join(line for line in lines if not re.match(r"[IW]\d{4} ", line))

    def wait_for(self, text):
        while not re.search(text, self.text):
            assert self.process.poll() is None, self.text
            time.sleep(0.05)

    def end(self, code=0, seconds=400):
        try:
            assert self.process.wait(seconds) == code, self.text
        finally:
            self.process.kill()
        return self.text


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The work directory of the same run on a disk."""
    workdir = tmp_path_factory.mktemp("local")
    command = [sys.executable, *PRETRAIN, "--workdir", workdir]
    subprocess.run(
        command, env=with_devices(1), cwd=ROOT, check=True, capture_output=True
    )
    return workdir


def copied(emulator, name, folder):
    """A local copy of a folder of the bucket."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, data in emulator.objects("bucket").items():
        if path.startswith(f"{name}/") and not path.endswith("/"):
            file = folder / path.removeprefix(f"{name}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    return folder


def final(workdir):
    c = config.restored(read_saved(workdir))
    mesh = sharding.make_mesh(jax.devices()[:1])
    job = build.assemble(c, mesh, **data_sizes(workdir))
    return restore_latest(workdir / "checkpoints", build.abstract(job))


def lines(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    return [{k: x for k, x in row.items() if "second" not in k} for row in rows]


def check_equal(emulator, name, local, tmp_path):
    """Checks that the runs in the bucket and on the disk have bitwise equal results."""
    remote = copied(emulator, name, tmp_path / "copy")
    (a, step), (b, other) = final(remote), final(local)
    assert step == other
    leaves = [*zip(plain(a), plain(b), strict=True)]
    assert len(leaves) > 100
    assert all(np.array_equal(x, y) for x, y in leaves)
    assert lines(remote) == lines(local)


def checkpoint_of(request):
    match = re.search(r"checkpoints/(\d+)(/|$)", request.object)
    return int(match[1]) if match else None


# Without faults.


def test_a_run_equals_a_local_one_with_few_requests(emulator, local, tmp_path):
    """61 lines, three checkpoints. The counts are printed: pytest -s."""
    work = Command(emulator, tmp_path, *PRETRAIN, "--workdir=gs://bucket/run")
    assert "done: 60 steps" in work.end()
    check_equal(emulator, "run", local, tmp_path)
    names = {n.split("/")[1] for n in emulator.objects("bucket")}
    assert {n.partition(".")[0] for n in names} == {
        *("config", "data", "metrics", "views", "events", "checkpoints")
    }
    assert not (ROOT / "gs:").exists()

    requests = sorted(emulator.requests, key=lambda r: r.time)
    numbers = [checkpoint_of(r) for r in requests]
    first = numbers.index(20)
    started, rest = requests[:first], requests[first:]
    per = {n: numbers.count(n) for n in (20, 40, 60)}
    others = [r for r in rest if checkpoint_of(r) is None]
    print(
        f"\n{len(requests)} requests: start {len(started)}, checkpoints {per}, ", end=""
    )
    print(f"else {len(others)}: {sorted({r.object for r in others})}")
    assert len(started) <= 30
    assert max(per.values()) <= 160
    # The log's files before each checkpoint and at the end, not once a line.
    written = [r for r in rest if "metrics.jsonl" in r.object or "events" in r.object]
    assert len(written) <= 2 * 4
    assert len(others) <= len(written) + 2


def test_a_run_resumes_after_a_kill_and_a_signal(emulator, local, tmp_path):
    arguments = (*PRETRAIN, "--workdir=gs://bucket/run/")
    work = Command(emulator, tmp_path, *arguments)
    work.wait_for(r"step 30/60")
    work.process.kill()
    work.process.wait()
    work = Command(emulator, tmp_path, *arguments)
    work.wait_for(r"step 4\d/60")
    work.process.send_signal(signal.SIGTERM)
    message = work.end(75)
    assert re.search(r"try again: .*saved at step \d\d of 60", message)
    work = Command(emulator, tmp_path, *arguments)
    assert "resuming from the checkpoint of step" in work.end()
    check_equal(emulator, "run", local, tmp_path)


def test_two_processes_resume_after_a_kill(emulator, tmp_path):
    """The results are those of two processes on a disk."""
    flags = [a for a in PRETRAIN[3:] if "batch_size" not in a]
    two = ["launch/local.sh", "2", *flags, "--config.data.batch_size=32", "--workdir"]
    subprocess.run(
        [*two, tmp_path / "disk"],
        env=with_devices(1),
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for kill in (True, False):
        log = tmp_path / f"log-{kill}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                emulator.command([*two, "gs://bucket/run"]),
                env=with_devices(1) | emulator.environment,
                stdout=file,
                stderr=file,
                cwd=ROOT,
                start_new_session=True,
            )
        while kill and b"step 25/60" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        if kill:
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(400) == (-signal.SIGKILL if kill else 0), log.read_text()
    check_equal(emulator, "run", tmp_path / "disk", tmp_path)


def test_pictures_in_a_bucket_are_read_once(emulator, local, tmp_path):
    """A TFDS set and a folder; the same losses as from a disk, and bytes once."""
    from PIL import Image

    from tests.data.test_tfds import prepare

    prepare(tmp_path / "tfds")
    draw = np.random.default_rng(0)
    for i in range(40):
        file = tmp_path / "pictures" / "cd"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 40, 3), np.uint8)).save(file)
    sizes = {}
    for name in ("tfds", "pictures"):
        files = [p for p in (tmp_path / name).rglob("*") if p.is_file()]
        sizes[name] = sum(p.stat().st_size for p in files)
        for file in files:
            emulator.put("bucket", str(file.relative_to(tmp_path)), file.read_bytes())
    sets = {
        "tfds": ["--config.data.name=toy", "--config.data.data_dir={}/tfds"],
        "pictures": ["--config.data.name={}/pictures"],
    }
    split = {"tfds": "test", "pictures": "train"}
    for name, flags in sets.items():
        results = []
        for root in (tmp_path, "gs://bucket"):
            emulator.clear_requests()
            arguments = [flag.format(root) for flag in flags]
            arguments += ["--config.steps=3", "--config.data.split=" + split[name]]
            workdir = tmp_path / f"{name}-{len(results)}"
            Command(
                emulator, tmp_path, *PRETRAIN, *arguments, "--workdir", workdir
            ).end()
            results.append(lines(workdir))
        assert results[0] == results[1]
        assert len(results[0]) == 3
        data = [r for r in emulator.requests if r.object.startswith(name)]
        fetched = sum(r.bytes_out for r in data if "alt=media" in r.path)
        print(
            f"\n{name}: {fetched / sizes[name]:.2f} of its size, {len(data)} requests"
        )
        # A folder's pictures are read on demand: 48 in 3 steps, 8 for views.png and 1
        # to inspect, of 40. A TFDS set of this size is kept in memory and read once.
        assert fetched < (1.3 if name == "tfds" else 57.5 / 40) * sizes[name]


def test_all_commands_work_on_a_bucket(emulator, tmp_path):
    """init_from, evaluate, export and import, a card: all on the bucket."""

    def do(*arguments, code=0):
        return Command(emulator, tmp_path, *arguments).end(code)

    short = ("--config.steps=20", "--config.log_every=5")
    do(*PRETRAIN, *short, "--workdir=gs://bucket/run")
    initialised = do(
        *PRETRAIN,
        *short,
        "--config.init_from=gs://bucket/run/",
        "--workdir=gs://bucket/b",
    )
    assert "initialised from gs://bucket/run" in initialised
    table = do(*EVALUATE, "--workdir=gs://bucket/run")
    assert "h, after 20 steps" in table
    zoo = ("-m", "simclr_jax", "zoo")
    do(
        *zoo,
        "export",
        "--workdir=gs://bucket/run",
        "--to=numpy",
        "--out=gs://bucket/x.npz",
    )
    safetensors.numpy.save_file(vit_mini(), tmp_path / "net")
    emulator.put("bucket", "nets/a.safetensors", (tmp_path / "net").read_bytes())
    imported = do(
        *zoo,
        *("import", "--from=timm", "--source=gs://bucket/nets/a.safetensors"),
        *("--workdir=gs://bucket/imported", "--config.data.name=cifar10_mini"),
        *("--config.data.eval_split=test", "--config.data.batch_size=32"),
    )
    assert "evaluate it" in imported
    do("-m", "simclr_jax", "reproduce", "quickstart", "--card", "gs://bucket/run")
    names = emulator.objects("bucket")
    assert {"x.npz", "x.npz.card.json", "x.npz.card.md"} <= names.keys()
    for name in ("results.json", "embedding.png", "curves.png", "card.json", "card.md"):
        assert f"run/{name}" in names
    assert not (ROOT / "gs:").exists()


# Usage errors: exit code 2 and one line, before the command starts.


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--workdir=gs://misspelt/run"],
            "gs://misspelt/run .* there is no such bucket",
        ),
        (
            ["--workdir=gs://bucket/run", "--config.data.data_dir=gs://misspelt/tfds"],
            "gs://misspelt/tfds .* there is no such bucket",
        ),
        (["--workdir=gs://bucket/file"], "gs://bucket/file is an object"),
        (["--workdir=gs://other/run"], "403 .*storage.objects.create is missing"),
    ],
    ids=lambda x: x[-1] if isinstance(x, list) else None,
)
def test_usage_errors_are_one_line(emulator, tmp_path, flags, message):
    """All but what is asked once is the start of Python, so few requests are soon."""
    emulator.put("bucket", "file", b"x")
    if "other" in flags[0]:
        emulator.permissions.discard("storage.objects.create")
    text = Command(emulator, tmp_path, *PRETRAIN, *flags).end(2, seconds=100)
    assert re.fullmatch(f"error: .*{message}.*", text)
    assert len(emulator.requests) < 15
    assert emulator.objects("bucket") == {"file": b"x"}


# Faults during a run.


def test_an_outage_of_half_a_minute_is_survived(emulator, local, tmp_path):
    work = Command(emulator, tmp_path, *PRETRAIN, "--workdir=gs://bucket/run")
    work.wait_for("step 10/60")
    emulator.faults = [Fault(status=503, seconds=30)]
    text = work.end()
    assert len(re.findall("503 Service Unavailable; trying again", text)) == 1
    assert len(re.findall("The storage responds again", text)) == 1
    check_equal(emulator, "run", local, tmp_path)


@pytest.mark.parametrize("fault", ["refused for 20 s", "revoked"])
def test_a_run_survives_a_revoked_token(emulator, local, tmp_path, fault):
    work = Command(emulator, tmp_path, *PRETRAIN, "--workdir=gs://bucket/run")
    work.wait_for("step 10/60")
    if fault == "revoked":
        emulator.revoke_tokens()
    else:
        emulator.faults = [Fault(status=401, seconds=20)]
    work.end()
    check_equal(emulator, "run", local, tmp_path)


def test_a_revoked_permission_exits_with_75(emulator, tmp_path):
    work = Command(emulator, tmp_path, *PRETRAIN, "--workdir=gs://bucket/run")
    work.wait_for("step 30/60")
    while "run/checkpoints/20/commit_success.txt" not in emulator.objects("bucket"):
        time.sleep(0.05)
    emulator.permissions = set()
    text = work.end(75)
    (last,) = [line for line in text.splitlines() if "try again" in line]
    assert "gs://bucket/run" in last
    assert "403 Forbidden" in last
    assert "Traceback" not in text


def test_a_deleted_bucket_exits_with_75(emulator, tmp_path):
    work = Command(emulator, tmp_path, *PRETRAIN, "--workdir=gs://bucket/run")
    work.wait_for("step 10/60")
    emulator.delete_bucket("bucket")
    text = work.end(75)
    assert "no such bucket" in text
    assert "Traceback" not in text


def test_retries_that_time_out_exit_with_75(emulator, tmp_path):
    work = Command(
        emulator,
        tmp_path,
        *PRETRAIN,
        "--workdir=gs://bucket/run",
        SIMCLR_JAX_STORAGE_PATIENCE="8",
    )
    work.wait_for("step 10/60")
    emulator.faults = [Fault(status=503)]
    text = work.end(75)
    assert "try again" in text
    assert "503 Service Unavailable" in text
    assert "Traceback" not in text


def test_truncated_reads_of_a_checkpoint_are_repeated(emulator, local, tmp_path):
    arguments = (*PRETRAIN, "--workdir=gs://bucket/run")
    work = Command(emulator, tmp_path, *arguments)
    work.wait_for("step 30/60")
    work.process.kill()
    work.process.wait()
    emulator.faults = [Fault("^GET .*checkpoints.*alt=media", truncate=50, count=10)]
    Command(emulator, tmp_path, *arguments).end()
    check_equal(emulator, "run", local, tmp_path)


def test_an_endless_read_of_a_checkpoint_is_reported_and_can_be_stopped(
    emulator, tmp_path
):
    arguments = (*PRETRAIN, "--config.steps=40", "--workdir=gs://bucket/run")
    work = Command(emulator, tmp_path, *arguments)
    while "run/checkpoints/20/commit_success.txt" not in emulator.objects("bucket"):
        assert work.process.poll() is None, work.text
        time.sleep(0.05)
    work.process.kill()
    work.process.wait()
    emulator.faults = [Fault("^GET .*checkpoints/.*/state/.*alt=media", truncate=50)]
    work = Command(emulator, tmp_path, *arguments)
    work.wait_for(
        "Still reading checkpoint 20 of gs://bucket/run/checkpoints, for 30 s"
    )
    work.process.send_signal(signal.SIGTERM)
    work.end(75, seconds=60)


def test_a_stalled_upload_does_not_stop_the_steps(emulator, local, tmp_path):
    work = Command(emulator, tmp_path, *PRETRAIN, "--workdir=gs://bucket/run")
    work.wait_for("step 10/60")
    stalled = Fault("^POST .*checkpoints/20", stall=60, count=1)
    emulator.faults = [stalled]
    work.wait_for("step 35/60")
    assert stalled.hits == 1
    assert "run/checkpoints/20/commit_success.txt" not in emulator.objects("bucket")
    assert "step 40 waits for it" in work.end()
    check_equal(emulator, "run", local, tmp_path)


def test_a_limit_of_one_write_a_second_is_respected(emulator, local, tmp_path):
    """The service's limit for an object, which it enforces by 429."""
    emulator.seconds_between_writes = 1
    work = Command(emulator, tmp_path, *PRETRAIN, "--workdir=gs://bucket/run")
    work.end()
    check_equal(emulator, "run", local, tmp_path)
