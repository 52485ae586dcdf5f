"""The time from a process's start to the second step of the quickstart, and its exit.

python -m tests.benchmarks.start [--base DIR] [--rounds 3]

DIR is another checkout of the project, such as an older one; ours is the one in which
this runs. Both run `pretrain` with configs/quickstart.py, in turn, with this
interpreter, two steps from

  cold     an empty compilation cache
  warm     the cache that the cold start filled
  resume   that cache, and a checkpoint of step 2

in CPU seconds and wall seconds up to the log line of the last step, and in wall seconds
from the line "done" to the end of the process. Linux only; other work on the machine
affects all sides alike. It prints medians of the rounds and, with --base, medians of
the ratios to the cold start there.
"""

import argparse
import datetime
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import NamedTuple

from tests.benchmarks.step import machine

COMMAND = ("-m", "simclr_jax", "pretrain", "--config=configs/quickstart.py")
STEPS = 2
TICKS = os.sysconf("SC_CLK_TCK")  # a second of /proc/PID/stat


class Start(NamedTuple):
    cpu: float  # CPU seconds to the last step
    wall: float  # seconds to the last step
    exit: float  # seconds from the end of the work to the end of the process


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.start")
    parser.add_argument("--base", default="")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    checkouts = {"base": args.base} if args.base else {}
    checkouts["ours"] = os.getcwd()
    print(f"{datetime.date.today()}, {machine()}")
    versions = [f"{name} {version(name)}" for name in ("jax", "tensorflow")]
    print(f"Python {platform.python_version()}, {', '.join(versions)}")
    rounds: list[dict[str, Start]] = []
    for number in range(args.rounds):
        rounds.append({})
        for side in sorted(checkouts, reverse=bool(number % 2)):
            for name, start in starts(checkouts[side]):
                rounds[-1][f"{side}, {name}"] = start
                print(f"round {number + 1}: {side}, {name}: {start}", file=sys.stderr)
    report(rounds)


def report(rounds: list[dict[str, Start]]) -> None:
    reference = next(iter(rounds[0]))
    print(f"| start | CPU s | wall s | exit s | CPU, wall to {reference} |")
    print("|---|---|---|---|---|")
    for name in rounds[0]:
        columns = [r[name] for r in rounds]
        medians = [statistics.median(x) for x in zip(*columns, strict=True)]
        ratios = [
            statistics.median(r[name][i] / r[reference][i] for r in rounds)
            for i in range(2)
        ]
        cells = [*(f"{x:.1f}" for x in medians), ", ".join(f"{x:.2f}" for x in ratios)]
        print(f"| {' | '.join([name, *cells])} |")


def starts(checkout: str) -> Iterator[tuple[str, Start]]:
    """(name, times) of the three starts of a checkout."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        yield "cold", measure(checkout, folder, "cold", STEPS)
        yield "warm", measure(checkout, folder, "warm", STEPS)
        measure(checkout, folder, "resume", 2 * STEPS)
        shutil.rmtree(folder / "resume" / "checkpoints" / str(2 * STEPS))
        yield "resume", measure(checkout, folder, "resume", 2 * STEPS)


def measure(checkout: str, folder: pathlib.Path, name: str, steps: int) -> Start:
    """The times of a command that trains in folder/NAME, with a cache in folder."""
    options = {"steps": steps, "log_every": 1, "checkpoint.every": STEPS}
    process = subprocess.Popen(
        [
            *(sys.executable, *COMMAND, f"--workdir={folder / name}"),
            *(f"--config.{key}={value}" for key, value in options.items()),
        ],
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
        cwd=checkout,
        stderr=subprocess.PIPE,
        text=True,
    )
    begin, times, output = time.monotonic(), {}, []
    assert process.stderr
    for line in process.stderr:
        output.append(line)
        for event in (f"step {steps}/{steps} ", "done: "):
            if line.startswith(event):
                times[event.split()[0]] = cpu_seconds(process.pid), time.monotonic()
    if process.wait() or len(times) < 2:
        sys.exit("".join(output))
    end = time.monotonic()
    cpu, stepped = times["step"]
    return Start(cpu, stepped - begin, end - times["done:"][1])


def cpu_seconds(pid: int) -> float:
    """The CPU seconds of a process so far, of all its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


if __name__ == "__main__":
    main()
