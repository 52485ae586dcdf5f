"""What a run says: lines of JSON, TensorBoard events, a bar or plain lines."""

import json
import math
import sys
import tempfile
import time

from etils import epath
from tensorboardX import SummaryWriter
from tqdm import tqdm

COPY_EVERY = 60  # seconds, of the events to a bucket


class Log:
    """Writes the metrics of a run; on all processes but the first it keeps silent.

    Args:
      workdir: where metrics.jsonl and the TensorBoard events go.
      start, total: steps done and steps to do.
      active: whether this process writes and speaks.
    """

    def __init__(self, workdir, start: int, total: int, *, active: bool = True):
        self.active = active
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self._start, self._total = start, total
        self._began = time.monotonic()
        if not active:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._forget(start)
        # TensorBoard's writer knows only disks: for a bucket, events are copied there.
        remote = "://" in str(workdir)
        here = tempfile.mkdtemp(prefix="simclr_jax_events_") if remote else workdir
        self._events = SummaryWriter(str(here), purge_step=start + 1)
        self._events_here = epath.Path(here) if remote else None
        self._copied = time.monotonic()
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
        """One line of metrics.jsonl, the events, and a word on the terminal."""
        if not self.active:
            return
        finite = {k: x if math.isfinite(x) else None for k, x in metrics.items()}
        line = json.dumps({"step": step} | finite)  # JSON knows no NaN
        with self._path.open("a") as file:
            file.write(line + "\n")
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)
        if time.monotonic() - self._copied > COPY_EVERY:
            self._copy_events()
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

    def _copy_events(self) -> None:
        self._events.flush()
        self._copied = time.monotonic()
        if self._events_here is not None:
            for path in self._events_here.iterdir():
                (self._path.parent / path.name).write_bytes(path.read_bytes())

    def close(self) -> None:
        if self.active:
            self._bar.close()
            self._copy_events()
            self._events.close()


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
