"""What a run says: lines of JSON, TensorBoard events, a bar or plain lines."""

import contextlib
import json
import math
import pathlib
import shutil
import sys
import tempfile
import time

from tensorboardX import SummaryWriter
from tqdm import tqdm

from simclr_jax.storage import bucket
from simclr_jax.storage.errors import ObjectMissing
from simclr_jax.storage.mirror import Mirror
from simclr_jax.storage.paths import in_bucket

FLUSH = 30  # seconds, of the events to the disk


class Log:
    """Writes the metrics of a run; on all processes but the first it keeps silent.

    Files are written on this machine. Where the work directory is in a bucket, they are
    copied there once a minute, before a checkpoint is complete, and at the end.

    Args:
      workdir: where metrics.jsonl and the TensorBoard events go; a whole path.
      start, total: steps done and steps to do.
      active: whether this process writes and speaks.
    """

    def __init__(self, workdir, start: int, total: int, *, active: bool = True):
        self.active = active
        self._start, self._total = start, total
        self._began = time.monotonic()
        if not active:
            return
        folder, self._mirror = pathlib.Path(workdir), None
        if in_bucket(workdir):
            folder = _fetch(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        self._forget(start)
        self._events = SummaryWriter(
            str(folder), purge_step=start + 1, flush_secs=FLUSH
        )
        if in_bucket(workdir):
            self._mirror = Mirror(folder, workdir)
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def _forget(self, step: int) -> None:
        """Drops the lines of steps that a resumed run will do again, and half lines."""
        if not self._path.exists():
            return
        lines = self._path.read_text().splitlines()
        kept = [line for line in lines if (_step(line) or step + 1) <= step]
        if kept == lines:
            return
        written = self._path.with_suffix(".jsonl.new")
        written.write_text("".join(line + "\n" for line in kept))
        written.replace(self._path)

    def say(self, text: str) -> None:
        """A line for people, above the bar."""
        if self.active:
            tqdm.write(text, file=sys.stderr)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl, the events, and a word on the terminal.

        Raises:
          BucketDenied, BucketUnavailable: lines before could not be copied.
        """
        if not self.active:
            return
        if self._mirror:
            self._mirror.check()
        finite = {k: x if math.isfinite(x) else None for k, x in metrics.items()}
        line = json.dumps({"step": step} | finite)  # JSON knows no NaN
        with self._path.open("a") as file:
            file.write(line + "\n")
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)
        speed = metrics["images_per_second"]
        if not self._bar.disable:
            self._bar.n = step
            self._bar.set_postfix_str(
                f"loss {metrics['loss']:.4f}, {speed:.4g} images/s", refresh=True
            )
            return
        took = time.monotonic() - self._began
        left = took / max(step - self._start, 1) * (self._total - step)
        print(
            f"step {step}/{self._total}  loss {metrics['loss']:.4f}  "
            f"{speed:.4g} images/s  {_clock(left)} left",
            file=sys.stderr,
            flush=True,
        )

    def copy(self) -> None:
        """Waits until all that was written is in the work directory.

        Raises:
          BucketDenied, BucketUnavailable.
        """
        if self.active and self._mirror:
            self._events.flush()
            self._mirror.copy()

    def close(self) -> None:
        """Raises as `copy`."""
        if not self.active:
            return
        self._bar.close()
        self._events.close()
        if self._mirror:
            try:
                self._mirror.close()
            finally:
                shutil.rmtree(self._path.parent)


def _fetch(workdir: str) -> pathlib.Path:
    """A folder of this machine, with the metrics that are in the bucket."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="simclr_jax_log_"))
    with contextlib.suppress(ObjectMissing):
        written = bucket.read(f"{workdir}/metrics.jsonl")
        (folder / "metrics.jsonl").write_bytes(written)
    return folder


def _step(line: str) -> int | None:
    """The step of a line; None for what a crash left of one."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return None


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
