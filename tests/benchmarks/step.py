"""The CPU time of the quickstart's step, beside the same step in PyTorch.

python -m tests.benchmarks.step [--torch PYTHON] [--rounds 9] [--steps 4] [--core 0]

PYTHON is an interpreter with torch and numpy; by default the one that runs this, which
has the project's packages. Linux only, in about two minutes.

All sides start from the same weights and do the same steps: network (resnet10), batch
(256 pictures, 512 views of 32x32), NT-Xent, online probe and AdamW of
configs/quickstart.py, in float32. Ours is the train step of `pretrain`, with metrics;
PyTorch's is torch_simclr.py, in either layout of memory. Each side is a separate
process on the same core, with one thread, the Makefile's settings of the C library and
one arena, so that no memory is returned to the system. They run in turn, some steps at
a time, so that other work on the machine affects all alike. Times are CPU seconds.

It prints the number of parameters of each side and the losses of its first steps, which
must agree; then the median and the least of the rounds. The ratio is the median over
the rounds of the ratio to the faster PyTorch.
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
from collections.abc import Callable
from typing import Any

OURS, *PYTORCH = SIDES = ("jax", "torch", "torch channels_last")
CHECKED = 4  # steps whose losses are printed
WARM_UP = 2  # rounds that do not count


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
            text = " ".join(f"{loss:.5f}" for loss in first[name]["losses"])
            print(f"{name}: {side.version}, {side.parameters:,} parameters, {text}")
        losses = [result["losses"][0] for result in first.values()]
        same = len({side.parameters for side in sides.values()}) == 1
        if not same or max(losses) - min(losses) > 1e-4:
            sys.exit("These are not the same networks.")
        for side in sides.values():
            side.do(WARM_UP * a.steps)
        rounds = [
            {name: side.do(a.steps)["cpu"] / a.steps for name, side in sides.items()}
            for _ in range(a.rounds)
        ]
    report(rounds)


def report(rounds: list[dict[str, float]]) -> None:
    middle = {name: statistics.median(r[name] for r in rounds) for name in SIDES}
    best = min(PYTORCH, key=middle.__getitem__)
    print("| CPU seconds a step | median | least | ratio |\n|---|---|---|---|")
    for name in SIDES:
        least = min(r[name] for r in rounds)
        ratio = statistics.median(r[name] / r[best] for r in rounds)
        print(f"| {name} | {middle[name]:.3f} | {least:.3f} | {ratio:.2f} |")


def machine() -> str:
    """The processor, its cores and their load."""
    name = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    name = name[1] if name else platform.machine()
    return f"{os.cpu_count()}, {name}, load {os.getloadavg()[0]:.1f}"


def tunables() -> dict[str, str]:
    """The settings of the C library by `make quickstart`, and one arena."""
    match = re.search(
        r"(GLIBC_TUNABLES) := (\S+)", pathlib.Path("Makefile").read_text()
    )
    assert match
    return {match[1]: f"{match[2]}:glibc.malloc.arena_max=1"}


class Side:
    """A process that does steps on request.

    Args:
      name: one of SIDES.
      python: its interpreter.
      folder: in which ours writes weights and batch for PyTorch.
      core: on which it runs.
    """

    def __init__(self, name: str, python: str, folder: str, core: int):
        command = ["taskset", "-c", str(core), python, "-m", "tests.benchmarks.step"]
        self._process = subprocess.Popen(
            [*command, name, folder],
            env=os.environ | tunables() | {"TF_CPP_MIN_LOG_LEVEL": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version, self.parameters = self._receive()

    def do(self, steps: int) -> dict:
        """The losses of so many more steps, and their CPU seconds."""
        assert self._process.stdin
        print(steps, file=self._process.stdin, flush=True)
        return self._receive()

    def _receive(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        return json.loads(line) if line else sys.exit("A side has ended.")


def serve(version: str, parameters: int, step: Callable[[], Any]) -> None:
    """The process of a Side; `step` returns the loss."""
    print(json.dumps((version, parameters)), flush=True)
    for line in sys.stdin:
        start = time.process_time()
        losses = [float(loss) for loss in [step() for _ in range(int(line))]]
        cpu = time.process_time() - start
        print(json.dumps({"losses": losses, "cpu": cpu}), flush=True)


def ours(folder: pathlib.Path) -> None:
    """Serves the step of this package."""
    import jax
    import numpy as np

    from simclr_jax import sharding
    from simclr_jax.data import pipeline
    from simclr_jax.data.prefetch import feed
    from simclr_jax.experiment import build, config

    c, mesh = config.read("configs/quickstart.py", []), sharding.make_mesh()
    with jax.set_mesh(mesh):
        source = build.open_data(c, c.data.split, str(folder))
        run = build.assemble(c, mesh, images=len(source), classes=source.classes)
        batches = pipeline.train_batches(
            source,
            build.recipe(c),
            batch_size=c.data.batch_size,
            seed=c.seed,
            first_step=0,
            steps=1,
        )
        batch = next(feed(batches, mesh))
        state = run.create()

        flat = with_random_scales(state.params)
        params = jax.tree.unflatten(jax.tree.structure(state.params), flat.values())
        state = state.replace(params=jax.device_put(params, run.placement.params))
        np.savez(folder / "weights.npz", **flat)
        np.savez(
            folder / "batch.npz",
            views=np.concatenate(batch.views),
            label=batch.label,
            rates=[run.schedule(i) for i in range(run.total)],
            temperature=c.method.temperature,
            weight_decay=c.optim.weight_decay,
        )
        compiled = build.train_step(c, run, mesh)

        def step():
            nonlocal state
            state, metrics = compiled(state, batch)
            return metrics["loss"]

        python = platform.python_version()
        parameters = sum(x.size for x in flat.values())
        serve(f"jax {jax.__version__} on Python {python}", parameters, step)


def with_random_scales(params: Any) -> dict[str, Any]:
    """Parameters by name; scales of zero would hide the layers before them."""
    import jax
    import numpy as np

    from simclr_jax.tree import paths

    draw = np.random.default_rng(0)
    named = zip(paths(params), jax.tree.leaves(params), strict=True)
    return {
        name: draw.uniform(0.5, 1.5, x.shape).astype(x.dtype) if "scale" in name else x
        for name, x in named
    }


def pytorch(folder: pathlib.Path, *, channels_last: bool) -> None:
    """Serves the step in PyTorch."""
    import numpy as np
    import torch

    from tests.benchmarks import torch_simclr

    torch.set_num_threads(1)
    model, batch = torch_simclr.SimCLR(), np.load(folder / "batch.npz")
    model.load(np.load(folder / "weights.npz"))
    layout = torch.channels_last if channels_last else torch.contiguous_format
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

    parameters = sum(p.numel() for p in model.learnable().values())
    serve(f"torch {torch.__version__}", parameters, step)


if __name__ == "__main__":
    if sys.argv[1:2] == [OURS]:
        ours(pathlib.Path(sys.argv[2]))
    elif sys.argv[1:] and sys.argv[1] in PYTORCH:
        pytorch(pathlib.Path(sys.argv[2]), channels_last=sys.argv[1] != PYTORCH[0])
    else:
        main()
