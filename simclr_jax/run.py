"""From a config to the parts of its run: data, method, optimiser, state."""

import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from jax.experimental import multihost_utils

from simclr_jax import config, sharding
from simclr_jax.data import pipeline
from simclr_jax.data.sources import Source, open_source
from simclr_jax.evaluate.features import Features, extract
from simclr_jax.methods.base import Method
from simclr_jax.methods.probe import with_probe
from simclr_jax.train import schedules
from simclr_jax.train.checkpoint import template
from simclr_jax.train.optim import COUPLED

INIT = zlib.crc32(b"init")


class Run(NamedTuple):
    """What a config comes to on this data and this mesh."""

    method: Method
    tx: Any  # optax transformation, see train/optim.py
    schedule: Callable  # step -> learning rate
    total: int  # steps
    warmup: int  # steps
    shapes: Any  # the state's tree of shapes and dtypes
    placement: Any  # and of shardings
    create: Callable  # () -> the state at step 0, where it belongs


def open_data(c, split: str, workdir: str) -> Source:
    """The pictures of a split of the config's data set.

    Process 0 goes first: what it downloads or indexes, the others find.
    """
    several, first = jax.process_count() > 1, jax.process_index() == 0
    if several and not first:
        multihost_utils.sync_global_devices("data is open")
    try:
        return open_source(
            c.data.name, data_dir=c.data.data_dir, split=split, workdir=workdir
        )
    finally:  # after an error, too: the others will meet the same
        if several and first:
            multihost_utils.sync_global_devices("data is open")


def recipe(c):
    """The views that the config draws of every picture."""
    return config.build("augment", c, size=c.data.image_size)


def length(c, images: int) -> tuple[int, int]:
    """Total and warm-up steps of a run over so many images.

    With `steps` the run's whole length is given; the warm-up is then at most a tenth
    of it.
    """
    n, batch = images, c.data.batch_size
    total = c.steps or schedules.total_steps(c.optim.length, n, c.epochs, batch)
    if not total:
        raise ValueError(f"epochs={c.epochs} is not one step of {batch} images.")
    warmup = schedules.warmup_steps(c.optim.warmup_epochs, n, batch)
    return total, min(warmup, total // 10) if c.steps else warmup


def build_method(c, total: int, classes: int) -> Method:
    """The method around the encoder, with the online probe where there are labels."""
    encoder = config.build("encoder", c)
    method = config.build("method", c, encoder, total_steps=total)
    if not (c.probe.enabled and classes):
        return method
    # Where the optimiser leaves the probe alone, its decay is an L2 term of the loss,
    # as long as that is what the optimiser's own decay is, too.
    spared = not c.probe.adapted and c.optim.name in COUPLED
    decay = c.optim.weight_decay if spared else 0.0
    return with_probe(method, classes, views=c.probe.views, weight_decay=decay)


def build_optimiser(c, probing: bool):
    """The optimiser; it spares the probe from decay and adaptation unless `adapted`."""
    section = c.optim.to_dict()
    if probing and not c.probe.adapted:
        for rule in ("undecayed", "unadapted"):
            if rule in section:
                section[rule] = (*section[rule], "^probe/")
    return config.call(config.SECTIONS["optim"], section)


def assemble(c, mesh, *, images: int, classes: int) -> Run:
    """Builds all parts of a run; nothing is computed yet.

    Args:
      images: n, the size of the training split.
      classes: C, 0 without labels.

    Raises:
      ValueError: if the config asks for something that cannot be built.
    """
    total, warmup = length(c, images)
    method = build_method(c, total, classes)
    tx = build_optimiser(c, probing=c.probe.enabled and classes > 0)
    peak = schedules.SCALINGS[c.optim.lr_scaling](c.optim.lr, c.data.batch_size)

    views = [
        jax.ShapeDtypeStruct((c.data.batch_size, view.size, view.size, 3), jnp.uint8)
        for view in recipe(c)
        for _ in range(view.copies)
    ]

    def create():
        key = jax.random.key(c.seed, impl="rbg")  # compiles four times faster
        state = method.init(jax.random.fold_in(key, INIT), views)
        zero = jnp.zeros((), jnp.int32)
        return state.replace(
            rng=jax.random.key(c.seed),
            step=zero,
            skipped=zero,
            streak=zero,
            opt_state=tx.init(state.params),
        )

    shapes = jax.eval_shape(create)
    where = sharding.replicated(mesh)
    if c.placement == "fsdp":
        placement = sharding.fsdp(mesh, shapes)
    else:
        placement = jax.tree.map(lambda _: where, shapes)
    # Drawn replicated and then moved, so that every placement has the same numbers.
    compiled = jax.jit(create, out_shardings=where)
    schedule = schedules.warmup_cosine(peak, warmup, total)
    return Run(
        method,
        tx,
        schedule,
        total,
        warmup,
        shapes,
        placement,
        lambda: jax.device_put(compiled(), placement),
    )


def abstract(run: Run):
    """The state's template for restoring a checkpoint."""
    return template(run.shapes, run.placement)


def features(c, run: Run, state, source: Source, mesh) -> Features:
    """Features of all pictures of a source by the branch that the method keeps."""
    batches = pipeline.eval_batches(
        source,
        size=c.data.image_size,
        batch_size=-(-c.evaluate.batch_size // mesh.size) * mesh.size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    params, stats = run.method.kept(state)
    return extract(run.method.network.encode, params, stats, batches, mesh)


def claim(c, workdir) -> None:
    """Makes the work directory the config's own, or finds that it is already.

    Raises:
      ValueError: if it belongs to a run with another config; it lists the differences.
    """
    path = epath.Path(workdir) / "config.json"
    mine = config.plain(c)
    if path.exists():
        lines = config.differences(json.loads(path.read_text()), mine)
        if lines:
            told = "\n  ".join(lines)
            raise ValueError(
                f"{workdir} belongs to a run with another config:\n  {told}\n"
                "Take another --workdir, or the config that began it."
            )
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_suffix(".json.new")  # no other process sees half a file
        written.write_text(json.dumps(mine, indent=2) + "\n")
        written.replace(path)
