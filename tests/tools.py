"""Helpers of several tests: a tiny run of any method, collectives of a program."""

import inspect
import json
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from simclr_jax import sharding
from simclr_jax.batch import Batch
from simclr_jax.data.sources import open_source
from simclr_jax.experiment import build, schema, values
from simclr_jax.experiment.workdir import data_sizes, record_run
from simclr_jax.methods.base import Method
from simclr_jax.methods.probe import with_probe
from simclr_jax.models.network import WHOLE_BATCH
from simclr_jax.models.norm import BatchNorm, pixels
from simclr_jax.models.resnet import Conv
from simclr_jax.models.rows import WHOLE, Rows
from simclr_jax.models.vit import ViT, vit
from simclr_jax.state import TrainState
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.optim import NORMS_AND_BIASES, sgd
from simclr_jax.train.step import make_train_step

CLASSES = 10
ANY_VIEWS = ("dino", "supervised", "autoencoder")  # methods of any number of views
CLOCK = {"total_steps": 100, "steps_per_epoch": 10}
# `out`, D of z, is required. Any array that is summed over the devices, such as two
# D x D matrices, has fewer than 768 numbers, the size of the pictures on a device in
# tests of traffic: D of 8 or 16 is small enough.
METHOD_WIDTHS: dict[str, dict[str, Any]] = {  # of each factory
    "simclr": {"hidden": 16, "out": 8},
    "moco": {"hidden": 16, "out": 8, "queue": 40},  # no batch of 16 or 32 divides it
    "mocov3": {"hidden": 16, "out": 8, "total_steps": 10},
    "byol": {"hidden": 16, "out": 8, "total_steps": 10},
    "simsiam": {"out": 16, "bottleneck": 4},
    "dino": {"hidden": 16, "out": 8, "prototypes": 32, **CLOCK},
    "tsimcne": {"hidden": 16, "out": 8},
    "supervised": {"classes": CLASSES},
    "autoencoder": {"size": 8},
}


SMALL_RUN = (  # arguments of `pretrain`: a run of seconds
    "--config.data.batch_size=32",
    "--config.encoder.name=tests.tools:tiny",
    "--config.method.hidden=16",
)
FEW_PICTURES = (
    "--config.data.split=train[:500]",
    "--config.data.eval_split=test[:100]",
)


class TinyDecoder(nn.Module):
    """Four patches of one colour: a decoder with few parameters."""

    size: int

    @nn.compact
    def __call__(self, h, train: bool, rows: Rows = WHOLE):
        x = nn.Dense(12)(h.astype(jnp.float32)).reshape(-1, 2, 2, 3)
        half = self.size // 2
        return x.repeat(half, 1).repeat(half, 2)


class Tiny(nn.Module):
    """A convolution, a batch norm and a mean: an encoder that compiles in no time."""

    groups: int = 1
    width: int = 8  # of h

    @nn.compact
    def __call__(self, x, train: bool, rows: Rows = WHOLE):
        x = pixels(x, (0.0,) * 3, (1.0,) * 3, "float32")
        x = Conv(self.width, 3, 2, name="conv1")(x)
        x = nn.relu(BatchNorm(groups=self.groups, name="bn1")(x, train, rows))
        return x.mean((1, 2))

    @nn.nowrap
    def decoder(self, size):
        return TinyDecoder(size)


def tiny(
    *, mean: tuple[float, ...] = (), std: tuple[float, ...] = (), dtype: str = ""
) -> Tiny:
    """Tiny as an encoder that a config can name."""
    return Tiny()


def tiny_vit(
    *, mean: tuple[float, ...] = (), std: tuple[float, ...] = (), dtype: str = ""
) -> ViT:
    """A vision transformer of one block as an encoder that a config can name."""
    return vit(8, 1, 2, patch=8)


def with_devices(count: int) -> dict[str, str]:
    """The environment for a process with that many simulated devices."""
    flags = re.sub(r"count=\d+", f"count={count}", os.environ["XLA_FLAGS"])
    return os.environ | {"XLA_FLAGS": flags}


def last_of_each(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command; of several `--key=value`, the last one only."""
    last: dict[str | int, str] = {}
    for i, argument in enumerate(arguments):
        key, equals, _ = argument.partition("=")
        last[key if equals and key.startswith("--") else i] = argument
    return list(last.values())


def add_method(text: str) -> str:
    """Adds a method from outside to METHOD_WIDTHS; returns its name.

    Args:
      text: module:factory:key=value,... with the small settings for the tests.
    """
    module, factory, *settings = text.split(":", 2)
    name = f"{module}:{factory}"
    make = schema.factory("method", name)
    pairs = [pair.split("=") for pair in "".join(settings).split(",") if pair]
    like = schema.defaults(make)
    clock = {k: x for k, x in CLOCK.items() if k in inspect.signature(make).parameters}
    widths = {key: values.parse(value, like[key], key) for key, value in pairs}
    METHOD_WIDTHS[name] = widths | clock
    return name


def small_method(name: str, probe: bool = True, encoder: Any = None) -> Method:
    """A method with its METHOD_WIDTHS around an encoder, Tiny by default."""
    if name not in METHOD_WIDTHS:
        raise KeyError(f"{name} needs small settings: METHOD_WIDTHS in tests/tools.py.")
    factory = schema.factory("method", name)
    method = factory(encoder or Tiny(groups=2), WHOLE_BATCH, **METHOD_WIDTHS[name])
    return with_probe(method, CLASSES) if probe else method


def small_batch(n: int = 16, side: int = 8, seed: int = 0) -> Batch:
    """Two views of n pictures of noise, and labels."""
    rng = np.random.default_rng(seed)
    views = tuple(
        rng.integers(0, 256, (n, side, side, 3)).astype(np.uint8) for _ in range(2)
    )
    label = rng.integers(0, CLASSES, n).astype(np.int32)
    return Batch(label=label, views=views)


def small_state(
    method: Method,
    tx: optax.GradientTransformationExtraArgs,
    batch: Batch,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """The state at step 0, replicated."""

    def create(rng):
        zero = jnp.zeros((), jnp.int32)
        state = method.init(rng, batch.views)
        opt_state = tx.init(state.params)
        return state.replace(opt_state=opt_state, step=zero, skipped=zero, streak=zero)

    return jax.jit(create, out_shardings=sharding.replicated(mesh))(jax.random.key(0))


def small_optimiser() -> optax.GradientTransformationExtraArgs:
    """SGD without decay of norms, biases and the probe."""
    return sgd(weight_decay=1e-4, no_decay=(*NORMS_AND_BIASES, "^probe/"))


def begin_in(workdir: pathlib.Path, c: ml_collections.ConfigDict) -> None:
    """Makes a folder the work directory of a run before its first step."""
    record_run(c, open_source("cifar10_mini", split="train"), workdir)


def leave_in(workdir: pathlib.Path, c: ml_collections.ConfigDict) -> TrainState:
    """Makes a folder the work directory of a run of 3 steps; returns its state.

    Parameters, targets and statistics are noise, all different.
    """
    begin_in(workdir, c)
    mesh = jax.sharding.Mesh(jax.devices()[:1], sharding.DATA)
    state = build.assemble(c, mesh, **data_sizes(workdir)).create()
    rng = np.random.default_rng(1)
    noise = lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32)  # noqa: E731
    state = state.replace(
        step=jnp.int32(3),
        params=jax.tree.map(noise, state.params),
        target_params=jax.tree.map(noise, state.target_params),
        model_state=jax.tree.map(noise, state.model_state),
    )
    checkpoints = Checkpoints(workdir / "checkpoints", every=1)
    checkpoints.save(3, state)
    checkpoints.close()
    return state


def losses(workdir: pathlib.Path) -> list[float]:
    """The losses that a run has logged, in order."""
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line)["loss"] for line in text.splitlines()]


def compiled_step(
    method: Method,
    tx: optax.GradientTransformationExtraArgs,
    mesh: jax.sharding.Mesh,
    rate: float = 0.1,
    prepare: Callable[[Batch], Batch] = lambda batch: batch,
) -> Any:
    """The jitted train step, donating its state."""
    replicated = sharding.replicated(mesh)
    step = make_train_step(method, tx, lambda step: jnp.float32(rate), prepare)
    return jax.jit(step, donate_argnums=0, out_shardings=(replicated, replicated))


def plain(tree: Any) -> list[np.ndarray]:
    """The leaves as numpy arrays, keys as their bits."""
    return [
        np.asarray(
            jax.random.key_data(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        )
        for x in jax.tree.leaves(tree)
    ]


COLLECTIVE = re.compile(
    r"= (\S+|\([^)]*\)) "
    r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\("
)


def temporary_bytes(compiled: Any) -> int:
    """The memory of the temporaries of a compiled program."""
    return compiled.memory_analysis().temp_size_in_bytes


def collectives(compiled: Any) -> list[tuple[str, str]]:
    """(kind, result type) of every collective of a compiled program."""
    return [(name, result) for result, name in COLLECTIVE.findall(compiled.as_text())]


def convolve_by_hand(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """The convolution, evenly padded, as a sum over the taps, in float64."""
    size = kernel.shape[0]
    around = ((size - 1) // 2, size // 2)
    x = np.pad(x, ((0, 0), around, around, (0, 0)))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            a, b = i * stride, j * stride
            patch = x[:, a : a + size, b : b + size]
            y[:, i, j] = np.tensordot(patch, kernel, 3)
    return y
