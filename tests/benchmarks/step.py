"""What the quickstart's step costs, beside the same step in PyTorch.

python -m tests.benchmarks.step [--torch PYTHON] [--rounds 9] [--steps 4] [--core 0]

PYTHON is an interpreter with torch and numpy; by default the one that runs this, which
has the project's packages. Linux only, in about two minutes.

All sides start from the same weights and do the same steps: network (resnet10), batch
(256 pictures, 512 views of 32x32), NT-Xent, online probe and AdamW of
configs/quickstart.py, in float32. Ours is the train step of the door, metrics and all;
PyTorch's is torch_simclr.py, in either layout of memory. Each is a process
of its own on one and the same core, with one thread, and with the Makefile's settings
of the C library and one arena, so that none gives back memory that others would take.
They take turns, some steps at a time, so that all have the same weather. What counts is
CPU seconds, not the clock's.

It prints how many parameters each has and the losses of its first steps, which must
agree; then the median and the least of the rounds, and as ratio the median of the
rounds' own ratios to the PyTorch that is the faster one.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

OURS, *THEIRS = SIDES = ("jax", "torch", "torch channels_last")
CHECKED = 4  # steps whose losses are printed
WARM = 2  # rounds that do not count


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.step")
    parser.add_argument("--torch", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            name: Side(
                name, sys.executable if name == OURS else a.torch, folder, a.core
            )
            for name in SIDES
        }
        first = {name: side.do(CHECKED) for name, side in sides.items()}
        print(f"{datetime.date.today()}, core {a.core} of {machine()}")
        for name, side in sides.items():
            losses = " ".join(f"{loss:.5f}" for loss in first[name]["losses"])
            print(f"{name}: {side.version}, {side.parameters:,} parameters, {losses}")
        start = [said["losses"][0] for said in first.values()]
        same = len({side.parameters for side in sides.values()}) == 1
        if not same or max(start) - min(start) > 1e-4:
            sys.exit("These are not the same networks.")
        for side in sides.values():
            side.do(WARM * a.steps)
        rounds = [
            {name: side.do(a.steps)["cpu"] / a.steps for name, side in sides.items()}
            for _ in range(a.rounds)
        ]
    report(rounds)


def report(rounds: list[dict[str, float]]) -> None:
    middle = {name: statistics.median(r[name] for r in rounds) for name in SIDES}
    best = min(THEIRS, key=middle.__getitem__)
    print("| CPU seconds a step | median | least | ratio |\n|---|---|---|---|")
    for name in SIDES:
        least = min(r[name] for r in rounds)
        ratio = statistics.median(r[name] / r[best] for r in rounds)
        print(f"| {name} | {middle[name]:.3f} | {least:.3f} | {ratio:.2f} |")


def machine() -> str:
    """What it is and how busy."""
    name = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    name = name[1] if name else platform.machine()
    return f"{os.cpu_count()}, {name}, load {os.getloadavg()[0]:.1f}"


def tunables() -> dict[str, str]:
    """What `make quickstart` tells the C library, and to have one arena."""
    said = re.search(r"(GLIBC_TUNABLES) := (\S+)", pathlib.Path("Makefile").read_text())
    assert said
    return {said[1]: f"{said[2]}:glibc.malloc.arena_max=1"}


class Side:
    """A process that does steps when it is told to.

    Args:
      name: one of SIDES.
      python: its interpreter.
      folder: where ours leaves weights and batch for PyTorch.
      core: the only one it may run on.
    """

    def __init__(self, name: str, python: str, folder: str, core: int):
        words = ["taskset", "-c", str(core), python, "-m", "tests.benchmarks.step"]
        self._process = subprocess.Popen(
            [*words, name, folder],
            env=os.environ | tunables() | {"TF_CPP_MIN_LOG_LEVEL": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version, self.parameters = self._hear()

    def do(self, steps: int) -> dict:
        """The losses of so many more steps, and the CPU seconds of all of them."""
        assert self._process.stdin
        print(steps, file=self._process.stdin, flush=True)
        return self._hear()

    def _hear(self):
        assert self._process.stdout
        line = self._process.stdout.readline()
        return json.loads(line) if line else sys.exit("A side has died.")


def serve(version: str, parameters: int, step) -> None:
    """The other end of a Side; step: () -> loss."""
    print(json.dumps((version, parameters)), flush=True)
    for line in sys.stdin:
        began = time.process_time()
        losses = [float(loss) for loss in [step() for _ in range(int(line))]]
        cpu = time.process_time() - began
        print(json.dumps({"losses": losses, "cpu": cpu}), flush=True)


def ours(folder: pathlib.Path) -> None:
    import jax
    import numpy as np

    from simclr_jax import sharding
    from simclr_jax.data import pipeline
    from simclr_jax.data.prefetch import feed
    from simclr_jax.experiment import build, config
    from simclr_jax.tree import paths

    c, mesh = config.read("configs/quickstart.py", []), sharding.make_mesh()
    with jax.set_mesh(mesh):
        source = build.open_data(c, c.data.split, str(folder))
        job = build.assemble(c, mesh, images=len(source), classes=source.classes)
        asked = {"batch_size": c.data.batch_size, "seed": c.seed}
        batches = pipeline.train_batches(
            source, build.recipe(c), **asked, start_step=0, steps=1
        )
        batch = next(feed(batches, mesh))
        state = job.create()

        # Scales that start at zero would hide what lies behind them.
        draw = np.random.default_rng(0)
        flat = {
            name: draw.uniform(0.5, 1.5, x.shape).astype(x.dtype)
            if "scale" in name
            else x
            for name, x in zip(
                paths(state.params), jax.tree.leaves(state.params), strict=True
            )
        }
        params = jax.tree.unflatten(jax.tree.structure(state.params), flat.values())
        state = state.replace(params=jax.device_put(params, job.placement.params))
        np.savez(folder / "weights.npz", **flat)
        np.savez(
            folder / "batch.npz",
            views=np.concatenate(batch.views),
            label=batch.label,
            rates=[job.schedule(i) for i in range(job.total)],
            temperature=c.method.temperature,
            weight_decay=c.optim.weight_decay,
        )
        compiled = build.train_step(c, job, mesh)

        def step():
            nonlocal state
            state, metrics = compiled(state, batch)
            return metrics["loss"]

        python = platform.python_version()
        parameters = sum(x.size for x in flat.values())
        serve(f"jax {jax.__version__} on Python {python}", parameters, step)


def theirs(folder: pathlib.Path, *, last: bool) -> None:
    import numpy as np
    import torch

    from tests.benchmarks import torch_simclr

    torch.set_num_threads(1)
    model, batch = torch_simclr.SimCLR(), np.load(folder / "batch.npz")
    model.load(np.load(folder / "weights.npz"))
    layout = torch.channels_last if last else torch.contiguous_format
    model = model.to(memory_format=layout)
    optimiser = torch_simclr.adamw(model, float(batch["weight_decay"]))
    do = torch_simclr.make_step(
        model, optimiser, temperature=float(batch["temperature"])
    )
    views = torch.from_numpy(batch["views"]).permute(0, 3, 1, 2)
    label, rates = torch.from_numpy(batch["label"]).long(), iter(batch["rates"])

    def step():
        x = (views.float() / 255).contiguous(memory_format=layout)
        return do(x, label, float(next(rates)))

    parameters = sum(p.numel() for p in model.learnt().values())
    serve(f"torch {torch.__version__}", parameters, step)


if __name__ == "__main__":
    if sys.argv[1:2] == [OURS]:
        ours(pathlib.Path(sys.argv[2]))
    elif sys.argv[1:] and sys.argv[1] in THEIRS:
        theirs(pathlib.Path(sys.argv[2]), last=sys.argv[1] != THEIRS[0])
    else:
        main()
