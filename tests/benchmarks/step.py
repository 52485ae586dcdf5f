"""A training step of this package beside the same step in PyTorch.

python -m tests.benchmarks.step [--torch PYTHON] [--base DIR] [--without [NAME ...]]
    [--network quickstart|resnet18] [--cores 0,1] [--rounds 9] [--steps 4]

--torch: an interpreter with torch and numpy: its step in both layouts of memory.
--base: another checkout of this project, which a change is measured against.
--without: ours once more for each of these ways (`step_sides.WAYS`), switched off; all
of them if none is named. Linux only, in two to five minutes.

All sides start from the same weights and do the same steps in float32: network
(resnet10 as in configs/quickstart.py with 256 pictures, or ResNet-18 with 32), two
views of 32x32, NT-Xent, online probe and AdamW. Ours is the train step of `pretrain`,
with metrics; PyTorch's is torch_simclr.py. Each side is a process of its own on the
same cores, with the environment of `measure.environment`. They run in turn, some steps
at a time, so that other work on the machine affects all alike.

It prints the parameters of each side and the losses of its first steps, which must
agree; then wall and CPU milliseconds of a step, and the median over the rounds of the
ratios to PyTorch's channels_last, or without --torch to the base or to ours.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from tests.benchmarks.measure import ROOT, environment, machine, median_ratio
from tests.benchmarks.step_sides import NETWORKS, WAYS

FASTEST = "torch channels_last"
CHECKED = 4  # steps whose losses are printed
WARM_UP = 2  # rounds that do not count


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.step")
    parser.add_argument("--torch", default="")
    parser.add_argument("--base", default="")
    parser.add_argument("--without", nargs="*", choices=sorted(WAYS))
    parser.add_argument("--network", default="quickstart", choices=NETWORKS)
    parser.add_argument("--cores", default="0,1")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4)
    a = parser.parse_args()
    print(f"{machine()}; {a.network} on cores {a.cores}")
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            name: Side(python, root, a.cores, [*args, a.network, folder])
            for name, (python, root, *args) in commands(a).items()
        }
        check(sides)
        for side in sides.values():
            side.do(WARM_UP * a.steps)
        rounds = [
            {name: side.do(a.steps) for name, side in sides.items()}
            for _ in range(a.rounds)
        ]
    report(rounds, a.steps)


def commands(a: argparse.Namespace) -> dict[str, list[str]]:
    """Interpreter, checkout and arguments of each side.

    PyTorch's are last, as they read the weights that ours write.
    """
    here = str(ROOT)
    sides = {"ours": [sys.executable, here, "ours"]}
    if a.base:
        sides["base"] = [sys.executable, a.base, "ours"]
    ways = () if a.without is None else a.without or WAYS
    for way in ways:
        sides[f"without {way}"] = [sys.executable, here, f"ours without {way}"]
    if a.torch:
        sides |= {x: [a.torch, here, x] for x in ("torch contiguous", FASTEST)}
    return sides


class Side:
    """A process that does steps on request.

    Args:
      python: its interpreter.
      root: the checkout that it imports.
      cores: on which it runs, such as "0,1".
      args: of step_sides.py.
    """

    def __init__(self, python: str, root: str, cores: str, args: list[str]):
        script = ROOT / "tests" / "benchmarks" / "step_sides.py"
        self._process = subprocess.Popen(
            ["taskset", "-c", cores, python, "-P", str(script), *args],
            cwd=root,
            env=environment(threads=len(cores.split(","))) | {"PYTHONPATH": root},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version, self.parameters = self._receive()

    def do(self, steps: int) -> dict:
        """So many more steps: their "losses", and "wall" and "CPU" seconds."""
        assert self._process.stdin
        print(steps, file=self._process.stdin, flush=True)
        return self._receive()

    def _receive(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        return json.loads(line) if line else sys.exit("A side has ended.")


def check(sides: dict[str, Side]) -> None:
    """Prints the first steps of all sides; ends the program if they differ."""
    losses = {name: side.do(CHECKED)["losses"] for name, side in sides.items()}
    for name, side in sides.items():
        text = " ".join(f"{loss:.5f}" for loss in losses[name])
        print(f"{name}: {side.version}, {side.parameters:,} parameters, {text}")
    first = [x[0] for x in losses.values()]
    same = len({side.parameters for side in sides.values()}) == 1
    if not same or max(first) - min(first) > 1e-4:
        sys.exit("These are not the same networks.")


def report(rounds: list[dict[str, dict]], steps: int) -> None:
    """Prints a table of the sides, in milliseconds a step: median (least)."""
    names = list(rounds[0])
    reference = next(x for x in (FASTEST, "base", "ours") if x in names)
    print(f"| ms a step | wall | ratio | CPU | ratio |\n|{'---|' * 5}")
    for name in names:
        cells = [name]
        for clock in ("wall", "CPU"):
            times = [{side: x[clock] for side, x in r.items()} for r in rounds]
            ms = [1e3 * x[name] / steps for x in times]
            cells.append(f"{statistics.median(ms):.0f} ({min(ms):.0f})")
            cells.append(f"{median_ratio(times, name, reference):.2f}")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
