"""The metrics of a run: JSON lines, TensorBoard events, and progress on stderr."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
import time

from tensorboardX import SummaryWriter
from tqdm import tqdm

from simclr_jax.storage import bucket, files
from simclr_jax.storage.errors import ObjectMissing
from simclr_jax.storage.mirror import Mirror
from simclr_jax.storage.paths import in_bucket

FLUSH = 30  # seconds between writes of the events to the disk
METRICS, WARNINGS = "metrics.jsonl", "warnings.jsonl"
ACCURACIES = {"probe_accuracy": "probe", "knn_accuracy": "kNN"}  # in the terminal


class Log:
    """Writes the metrics of a run; does nothing in processes other than the first.

    Files are written to the local disk. If the work directory is in a bucket, they are
    copied to it once a minute, before a checkpoint is complete, and at the end.

    Args:
      workdir: absolute path of the folder for metrics.jsonl, warnings.jsonl and the
        TensorBoard events.
      start: steps done before; lines of later steps are removed.
      total: steps of the whole run.
      active: whether this process writes.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        start: int,
        total: int,
        *,
        active: bool = True,
    ):
        self.active = active
        self._start, self._total = start, total
        self._start_time = time.monotonic()
        self._accuracies: dict[str, tuple[int, float]] = {}  # the latest, with its step
        if not active:
            return
        self._mirror = None
        folder = _download(workdir) if in_bucket(workdir) else pathlib.Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._warnings = folder / METRICS, folder / WARNINGS
        for path in (self._path, self._warnings):
            _remove_after(path, start)
        self._events = SummaryWriter(
            str(folder), purge_step=start + 1, flush_secs=FLUSH
        )
        if in_bucket(workdir):
            self._mirror = Mirror(folder, os.fspath(workdir))
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )

    def say(self, text: str) -> None:
        """Prints a line on stderr, above the bar."""
        if self.active:
            tqdm.write(text, file=sys.stderr)

    def warn(self, step: int, name: str, text: str) -> None:
        """Prints a warning, and appends it to warnings.jsonl."""
        if not self.active:
            return
        self.say(f"warning: step {step}: {text}")
        with self._warnings.open("a") as file:
            file.write(json.dumps({"step": step, "name": name, "text": text}) + "\n")

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes metrics to metrics.jsonl and to the events, and some to the terminal.

        Args:
          metrics: with "loss" and "images_per_second".

        Raises:
          BucketDenied, BucketUnavailable: earlier lines could not be copied.
        """
        if not self.active:
            return
        if self._mirror:
            self._mirror.check()
        finite = {k: x if math.isfinite(x) else None for k, x in metrics.items()}
        line = json.dumps({"step": step} | finite)  # JSON has no NaN
        with self._path.open("a") as file:
            file.write(line + "\n")
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)
        shown = self._shown(step, metrics)
        if not self._bar.disable:
            self._bar.n = step
            self._bar.set_postfix_str(", ".join(shown), refresh=True)
            return
        elapsed = time.monotonic() - self._start_time
        left = elapsed / max(step - self._start, 1) * (self._total - step)
        print(
            "  ".join((f"step {step}/{self._total}", *shown, f"{_clock(left)} left")),
            file=sys.stderr,
            flush=True,
        )

    def _shown(self, step: int, metrics: dict[str, float]) -> list[str]:
        """The metrics for the terminal; an older accuracy has its step in brackets."""
        shown = [f"loss {metrics['loss']:.4f}"]
        for name, title in ACCURACIES.items():
            if name in metrics:
                self._accuracies[name] = step, metrics[name]
            if name in self._accuracies:
                measured, accuracy = self._accuracies[name]
                age = f" ({measured})" if measured < step else ""
                shown.append(f"{title} {100 * accuracy:.1f} %{age}")
        return [*shown, f"{metrics['images_per_second']:.4g} images/s"]

    def copy(self) -> None:
        """Waits until all files are complete in the work directory.

        Raises:
          BucketDenied, BucketUnavailable.
        """
        if self.active and self._mirror:
            self._events.flush()
            self._mirror.copy()

    def close(self) -> None:
        """Writes the rest and removes local copies; raises as `copy`."""
        if not self.active:
            return
        self._bar.close()
        self._events.close()
        if self._mirror:
            try:
                self._mirror.close()
            finally:
                shutil.rmtree(self._path.parent)


def _remove_after(path: pathlib.Path, step: int) -> None:
    """Removes lines of steps that a resumed run repeats, and incomplete lines."""
    if not path.exists():
        return
    lines = path.read_text().splitlines()
    kept = [line for line in lines if (_step(line) or step + 1) <= step]
    if kept != lines:
        files.write(str(path), "".join(line + "\n" for line in kept))


def _download(workdir: str | os.PathLike) -> pathlib.Path:
    """A temporary local folder with the metrics and warnings of the bucket."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="simclr_jax_log_"))
    for name in (METRICS, WARNINGS):
        with contextlib.suppress(ObjectMissing):
            (folder / name).write_bytes(bucket.read(f"{workdir}/{name}"))
    return folder


def _step(line: str) -> int | None:
    """The step of a line of metrics.jsonl; None for an incomplete line."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return None


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
