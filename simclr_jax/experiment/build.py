"""Builds the parts of a run from its config: data, method, optimiser, state, step."""

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import multihost, sharding
from simclr_jax.batch import Batch
from simclr_jax.data import augment, augment_device, decoded_cache
from simclr_jax.data.recipes import expand
from simclr_jax.data.sources import Source, join_splits, open_source
from simclr_jax.data.view import View, restrict
from simclr_jax.experiment import batch_scaling, external, part_results, schema
from simclr_jax.losses import block_size
from simclr_jax.methods.base import Method
from simclr_jax.methods.probe import with_probe
from simclr_jax.models import cpu
from simclr_jax.models.network import BatchOptions
from simclr_jax.state import TrainState
from simclr_jax.storage.paths import absolute
from simclr_jax.train import schedules
from simclr_jax.train.checkpoint_reader import template
from simclr_jax.train.optim import COUPLED
from simclr_jax.train.rules import with_rules
from simclr_jax.train.step import make_train_step

INIT = zlib.crc32(b"init")


class Run(NamedTuple):
    """The parts of a run, built for its data set and mesh."""

    method: Method
    tx: optax.GradientTransformationExtraArgs  # see train/optim.py
    schedule: Callable[[Any], Any]  # step -> learning rate
    total: int  # steps
    warmup: int  # steps
    shapes: TrainState  # of ShapeDtypeStructs
    placement: TrainState  # of shardings
    create: Callable[[], TrainState]  # the state at step 0, on the mesh
    notes: tuple[str, ...] = ()  # on the recipe and on how the loss is computed
    init_note: str = ""  # on the arrays that come from another run


def open_data(c: ConfigDict, split: str, workdir: str = "") -> Source:
    """Opens a split of the config's data set.

    Process 0 opens it first; the others then read what it has downloaded or indexed.

    Raises:
      ValueError: as in `open_source`, or in `schema.call` for a set from outside.
    """

    def open_one(split):
        folder = absolute(c.data.data_dir)
        return schema.call("data", c.data, split=split, data_dir=folder)

    with multihost.process_0_first():
        if external.is_external(c.data.name):
            return join_splits(open_one, split)
        return open_source(
            c.data.name, data_dir=c.data.data_dir, split=split, workdir=workdir
        )


def recipe(c: ConfigDict) -> tuple[View, ...]:
    """The views that the config's augmentation makes of every picture."""
    views = schema.call("augment", c.augment, size=c.data.image_size)
    return restrict(views, c.augment.operations)


def length(c: ConfigDict, images: int) -> tuple[int, int]:
    """Total and warm-up steps of a run.

    If `steps` sets the total, the warm-up is at most a tenth of it.

    Args:
      images: n, the size of the training split.

    Raises:
      ValueError: `epochs` is less than one step.
    """
    n, batch = images, c.data.batch_size
    total = c.steps or schedules.total_steps(c.optim.length, n, c.epochs, batch)
    if not total:
        raise ValueError(f"epochs={c.epochs} is not one step of {batch} images.")
    warmup = schedules.warmup_steps(c.optim.length, n, c.optim.warmup_epochs, batch)
    return total, min(warmup, total // 10) if c.steps else warmup


def step_counts(c: ConfigDict, images: int) -> dict[str, int]:
    """The steps of the run and of an epoch, as keyword arguments of factories."""
    total, _ = length(c, images)
    return {"total_steps": total, "steps_per_epoch": images // c.data.batch_size}


def build_method(c: ConfigDict, *, images: int, classes: int) -> Method:
    """The method around the encoder, with the online probe where there are labels."""
    encoder = schema.call("encoder", c.encoder)
    if external.is_external(c.encoder.name):
        part_results.check_encoder(c.encoder.name, encoder, c.data.image_size)
    section = c.method.to_dict() | batch_scaling.kept_per_step(c).method
    options = BatchOptions(c.optim.microbatches, batch_scaling.image_ratio(c))
    derived = {"classes": classes, "size": c.data.image_size}
    derived |= step_counts(c, images)
    method = schema.call("method", section, encoder, options, **derived)
    if not (c.probe.enabled and classes):
        return method
    # If the optimiser does not decay the probe, an L2 term of the loss does, provided
    # that the optimiser's decay is an L2 term (coupled), too.
    excluded = not c.probe.adapted and c.optim.name in COUPLED
    decay = c.optim.weight_decay if excluded else 0.0
    return with_probe(method, classes, views=c.probe.views, weight_decay=decay)


def build_schedule(c: ConfigDict, *, images: int) -> Callable[[Any], Any]:
    """step -> the learning rate."""
    total, warmup = length(c, images)
    return schedules.SHAPES[c.optim.schedule](
        peak=peak_rate(c),
        end=end_rate(c),
        warmup=warmup,
        total=total,
        epoch=images // c.data.batch_size,
        milestones=c.optim.milestones,
    )


def peak_rate(c: ConfigDict) -> float:
    """The learning rate at the end of the warm-up."""
    return schedules.SCALINGS[c.optim.lr_scaling](c.optim.lr, c.data.batch_size)


def end_rate(c: ConfigDict) -> float:
    """The learning rate at the end of the run, of schedules that have an end."""
    return schedules.END_SCALINGS[c.optim.lr_end_scaling](c.optim.lr_end, peak_rate(c))


def build_optimiser(
    c: ConfigDict, *, images: int, probing: bool
) -> optax.GradientTransformationExtraArgs:
    """The optimiser; it decays and adapts the probe only if `probe.adapted`."""
    section = c.optim.to_dict()
    if probing and not c.probe.adapted:
        for rule in ("no_decay", "no_adaptation"):
            if rule in section:
                section[rule] = (*section[rule], "^probe/")
    steps = step_counts(c, images)
    return with_rules(
        schema.call("optim", section, **steps),
        frozen=c.optim.frozen,
        delayed=c.optim.delayed,
        delay_steps=c.optim.delay_epochs * steps["steps_per_epoch"],
        constant=c.optim.constant,
        multipliers=c.optim.multipliers,
        peak=peak_rate(c),
        clip=c.optim.clip,
    )


def assemble(c: ConfigDict, mesh: Mesh, *, images: int, classes: int) -> Run:
    """Builds all parts of a run; computes no arrays.

    Args:
      images: n, the size of the training split.
      classes: C, 0 without labels.

    Raises:
      ValueError: the config asks for something that cannot be built.
    """
    total, warmup = length(c, images)
    method = build_method(c, images=images, classes=classes)
    tx = build_optimiser(c, images=images, probing=c.probe.enabled and classes > 0)
    n = c.data.batch_size
    views = tuple(
        jax.ShapeDtypeStruct((n, view.size, view.size, 3), jnp.uint8)
        for view in expand(recipe(c))
    )
    init = functools.partial(_initial_state, c.seed, method, tx, views)
    shapes = jax.eval_shape(init)
    batch = Batch(label=jax.ShapeDtypeStruct((n,), jnp.int32), views=views)
    # Tracing the loss raises its errors before any array is computed.
    with jax.set_mesh(mesh):
        jax.eval_shape(method.loss, shapes.params, shapes.for_loss(), batch, shapes.rng)

    replicated = sharding.replicated(mesh)
    if c.placement == "fsdp":
        placement = sharding.fsdp(mesh, shapes)
    else:
        placement = jax.tree.map(lambda _: replicated, shapes)
    # Initialised as replicated and then resharded, so that the values do not depend on
    # the placement.
    compiled = jax.jit(init, out_shardings=replicated)
    return Run(
        method,
        tx,
        build_schedule(c, images=images),
        total,
        warmup,
        shapes,
        placement,
        lambda: jax.device_put(compiled(), placement),
        tuple(_notes(c, method, shapes, mesh, images)),
    )


def _initial_state(
    seed: int,
    method: Method,
    tx: optax.GradientTransformationExtraArgs,
    views: tuple[jax.ShapeDtypeStruct, ...],
) -> TrainState:
    key = jax.random.key(seed, impl="rbg")  # compiles four times faster
    state = method.init(jax.random.fold_in(key, INIT), views)
    zero = jnp.zeros((), jnp.int32)
    return state.replace(
        rng=jax.random.key(seed),
        step=zero,
        skipped=zero,
        streak=zero,
        opt_state=tx.init(state.params),
    )


def _notes(
    c: ConfigDict, method: Method, shapes: TrainState, mesh: Mesh, images: int
) -> Iterator[str]:
    """Lines on the recipe and on how the loss is computed, for the log."""
    if c.recipe_batch_size:
        normed = bool(jax.tree.leaves(shapes.model_state))
        yield batch_scaling.table(c, images=images, normed=normed)
    if method.similarities is not None:
        matrix = method.similarities(c.data.batch_size)
        yield block_size.describe(matrix, mesh.size)


def train_step(c: ConfigDict, run: Run, mesh: Mesh) -> jax.stages.Wrapped:
    """The jitted step, (state, batch) -> (state, metrics); it donates the state."""
    return jax.jit(
        make_train_step(run.method, run.tx, run.schedule, prepare(c)),
        donate_argnums=0,
        out_shardings=(run.placement, sharding.replicated(mesh)),
        compiler_options=cpu.compiler_options(mesh),
    )


def prepare(c: ConfigDict) -> Callable[[Batch], Batch]:
    """The part of the augmentation that runs on the device."""
    on_device = c.data.colour == "device"
    return augment_device.prepare(recipe(c)) if on_device else lambda batch: batch


def batch_shapes(c: ConfigDict, mesh: Mesh, *, labels: bool) -> Batch:
    """The shapes, with shardings, of a batch of the training step.

    The data set is not read. With `data.colour="device"` and small views, the decoded
    pictures are assumed to fit into memory, so that the device crops them, too (see
    `data/decoded_cache.py`).
    """
    n, views = c.data.batch_size, expand(recipe(c))
    by_batch = sharding.by_batch(mesh)

    def rows(dtype, *shape):
        return jax.ShapeDtypeStruct((n, *shape), dtype, sharding=by_batch)

    batch = Batch(index=rows(np.int32), label=rows(np.int32) if labels else None)
    device = c.data.colour == "device"
    side = decoded_cache.required_side(views) if device else 0
    if side:
        batch = batch.replace(picture=rows(np.uint8, side, side, 3))
    else:
        shapes = tuple(rows(np.uint8, view.size, view.size, 3) for view in views)
        batch = batch.replace(views=shapes)
    if device:
        draw = decoded_cache.draw if side else augment.draw
        draws = draw(views, c.seed, 0, 0, np.arange(n))
        shapes = jax.tree.map(lambda x: rows(x.dtype, *x.shape[1:]), draws)
        batch = batch.replace(draws=shapes)
    return batch


def feature_names(c: ConfigDict, run: Run) -> tuple[str, ...]:
    """The names of the features that the method has, without computing them."""
    image = jax.ShapeDtypeStruct((1, *[c.data.image_size] * 2, 3), jnp.uint8)
    encode = run.method.network.encode
    outputs = jax.eval_shape(encode, *run.method.kept(run.shapes), image)
    return tuple(run.method.features(outputs))


def abstract(run: Run) -> TrainState:
    """The state's shapes, dtypes and shardings, for restoring a checkpoint."""
    return template(run.shapes, run.placement)
