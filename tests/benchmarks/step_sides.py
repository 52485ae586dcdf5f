"""The processes of `step`: each builds a training step and does as many as it is asked.

python step_sides.py SIDE NETWORK FOLDER, in the checkout to be measured. SIDE: "ours",
"ours without WAY", "torch contiguous" or "torch channels_last". Ours write weights and
batch to FOLDER, PyTorch's read them.
"""

import functools
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

NETWORKS = ("quickstart", "resnet18")


def slide_instead(way: str) -> None:
    """Lets XLA's convolution have the shapes of one of `models.cpu`'s ways."""
    from simclr_jax.models import cpu

    original = cpu.way
    cpu.way = lambda picture, kernel: (
        "slide" if original(picture, kernel) == way else original(picture, kernel)
    )


def without_gradients() -> None:
    from simclr_jax.models import convolution, cpu

    cpu.gradients = convolution._gradients


def without_batch_norm() -> None:
    from simclr_jax.models import norm

    module: Any = norm
    module._normalise = lambda *args: norm._normalise_forward(*args)[0]


def without_options() -> None:
    from simclr_jax.models import cpu

    cpu.compiler_options = lambda mesh: {}


# Functions that switch one of the package's ways off, before the step is built.
WAYS: dict[str, Callable[[], None]] = {
    "dense": functools.partial(slide_instead, "dense"),
    "patches": functools.partial(slide_instead, "patches"),
    "gradients": without_gradients,
    "batch_norm": without_batch_norm,
    "options": without_options,
}


def main(side: str, network: str, folder: str) -> None:
    program, _, detail = side.partition(" ")
    if program == "torch":
        pytorch(network, pathlib.Path(folder), layout=detail)
        return
    if detail:
        WAYS[detail.removeprefix("without ")]()
    ours(network, pathlib.Path(folder))


def serve(version: str, parameters: int, step: Callable[[], Any]) -> None:
    """Answers requests; `step` returns the loss."""
    print(json.dumps((version, parameters)), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        losses = [float(loss) for loss in [step() for _ in range(int(line))]]
        seconds = {"wall": time.perf_counter() - wall, "CPU": time.process_time() - cpu}
        print(json.dumps({"losses": losses} | seconds), flush=True)


def config_of(network: str) -> Any:
    """The config of a run with this network."""
    from simclr_jax.experiment import base, config

    if network == "quickstart":
        return config.read("configs/quickstart.py", [])
    c = base.get_config("simclr", encoder="resnet18", optim="adamw")
    base.quickstart(c)
    c.data.batch_size = 32
    c.encoder.stem = "cifar"
    c.method.temperature = 0.2
    return c


def ours(network: str, folder: pathlib.Path) -> None:
    """Serves the step of this package."""
    import jax
    import numpy as np

    from simclr_jax import sharding
    from simclr_jax.data import pipeline
    from simclr_jax.data.prefetch import feed
    from simclr_jax.experiment import build

    c, mesh = config_of(network), sharding.make_mesh()
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


def pytorch(network: str, folder: pathlib.Path, *, layout: str) -> None:
    """Serves the step in PyTorch."""
    import numpy as np
    import torch

    from tests.benchmarks import torch_simclr

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = torch_simclr.SimCLR(torch_simclr.NETWORKS[network])
    batch = np.load(folder / "batch.npz")
    model.load(np.load(folder / "weights.npz"))
    memory = (
        torch.channels_last if layout == "channels_last" else torch.contiguous_format
    )
    model = model.to(memory_format=memory)
    optimiser = torch_simclr.adamw(model, float(batch["weight_decay"]))
    do = torch_simclr.make_step(
        model, optimiser, temperature=float(batch["temperature"])
    )
    views = torch.from_numpy(batch["views"]).permute(0, 3, 1, 2)
    label, rates = torch.from_numpy(batch["label"]).long(), iter(batch["rates"])

    def step():
        x = (views.float() / 255).contiguous(memory_format=memory)
        return do(x, label, float(next(rates)))

    parameters = sum(p.numel() for p in model.learnable().values())
    serve(f"torch {torch.__version__}", parameters, step)


if __name__ == "__main__":
    main(*sys.argv[1:])
