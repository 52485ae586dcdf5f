"""From a config to the parts of its run: data, method, optimiser, state."""

import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from simclr_jax import multihost, sharding
from simclr_jax.batch import Batch
from simclr_jax.data import augment, augment_device, decoded_cache, pipeline
from simclr_jax.data.recipes import expand
from simclr_jax.data.sources import Source, open_source
from simclr_jax.evaluate.features import Features, extract
from simclr_jax.experiment import batch_scaling, config
from simclr_jax.losses import blockwise
from simclr_jax.methods.base import Method
from simclr_jax.methods.probe import with_probe
from simclr_jax.models.network import manner
from simclr_jax.storage import files
from simclr_jax.train import schedules
from simclr_jax.train.checkpoint import template
from simclr_jax.train.optim import COUPLED, with_rules
from simclr_jax.train.step import make_train_step

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
    notes: tuple[str, ...] = ()  # on the recipe and on how the loss is computed
    begins: str = ""  # with what, where another run's state is part of it


def open_data(c, split: str, workdir: str) -> Source:
    """The pictures of a split of the config's data set.

    Process 0 goes first: what it downloads or indexes, the others find.
    """
    with multihost.first_goes_first():
        return open_source(
            c.data.name, data_dir=c.data.data_dir, split=split, workdir=workdir
        )


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
    warmup = schedules.warmup_steps(c.optim.length, n, c.optim.warmup_epochs, batch)
    return total, min(warmup, total // 10) if c.steps else warmup


def clock(c, images: int) -> dict[str, int]:
    """What a factory may ask for to tell the time by."""
    total, _ = length(c, images)
    return {"total_steps": total, "steps_per_epoch": images // c.data.batch_size}


def build_method(c, *, images: int, classes: int) -> Method:
    """The method around the encoder, with the online probe where there are labels."""
    encoder, stays = config.build("encoder", c), batch_scaling.stays(c)
    section = c.method.to_dict() | stays.method
    with manner(c.optim.microbatches, stays.batch_norm):
        method = config.call(
            config.SECTIONS["method"], section, encoder, **clock(c, images)
        )
    if not (c.probe.enabled and classes):
        return method
    # Where the optimiser leaves the probe alone, its decay is an L2 term of the loss,
    # as long as that is what the optimiser's own decay is, too.
    spared = not c.probe.adapted and c.optim.name in COUPLED
    decay = c.optim.weight_decay if spared else 0.0
    return with_probe(method, classes, views=c.probe.views, weight_decay=decay)


def build_schedule(c, *, images: int) -> Callable:
    """step -> the learning rate."""
    total, warmup = length(c, images)
    return schedules.SHAPES[c.optim.schedule](
        peak=peak(c),
        end=c.optim.lr_end,
        warmup=warmup,
        total=total,
        epoch=images // c.data.batch_size,
        changes=c.optim.changes,
    )


def peak(c) -> float:
    """The learning rate at the end of the warm-up."""
    return schedules.SCALINGS[c.optim.lr_scaling](c.optim.lr, c.data.batch_size)


def build_optimiser(c, *, images: int, probing: bool):
    """The optimiser; it spares the probe from decay and adaptation unless `adapted`."""
    section = c.optim.to_dict()
    if probing and not c.probe.adapted:
        for rule in ("undecayed", "unadapted"):
            if rule in section:
                section[rule] = (*section[rule], "^probe/")
    time = clock(c, images)
    return with_rules(
        config.call(config.SECTIONS["optim"], section, **time),
        frozen=c.optim.frozen,
        late=c.optim.late,
        late_step=c.optim.late_epochs * time["steps_per_epoch"],
        constant=c.optim.constant,
        peak=peak(c),
        clip=c.optim.clip,
    )


def assemble(c, mesh, *, images: int, classes: int) -> Run:
    """Builds all parts of a run; nothing is computed yet.

    Args:
      images: n, the size of the training split.
      classes: C, 0 without labels.

    Raises:
      ValueError: if the config asks for something that cannot be built.
    """
    total, warmup = length(c, images)
    method = build_method(c, images=images, classes=classes)
    tx = build_optimiser(c, images=images, probing=c.probe.enabled and classes > 0)

    views = tuple(
        jax.ShapeDtypeStruct((c.data.batch_size, view.size, view.size, 3), jnp.uint8)
        for view in recipe(c)
        for _ in range(view.copies)
    )

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
    label = jax.ShapeDtypeStruct((c.data.batch_size,), jnp.int32)
    batch = Batch(label=label, views=views)  # a loss that cannot be says so now
    with jax.set_mesh(mesh), blockwise.noting() as notes:
        jax.eval_shape(method.loss, shapes.params, shapes.blind(), batch, shapes.rng)
    if c.transfer_from:
        normed = bool(jax.tree.leaves(shapes.model_state))
        notes.insert(0, batch_scaling.table(c, images=images, normed=normed))
    where = sharding.replicated(mesh)
    if c.placement == "fsdp":
        placement = sharding.fsdp(mesh, shapes)
    else:
        placement = jax.tree.map(lambda _: where, shapes)
    # Drawn replicated and then moved, so that every placement has the same numbers.
    compiled = jax.jit(create, out_shardings=where)
    return Run(
        method,
        tx,
        build_schedule(c, images=images),
        total,
        warmup,
        shapes,
        placement,
        lambda: jax.device_put(compiled(), placement),
        tuple(dict.fromkeys(notes)),
    )


def train_step(c, run: Run, mesh):
    """The run's jitted (state, batch) -> (state, metrics), which donates the state."""
    prepare = (
        augment_device.prepare(recipe(c)) if c.data.colour == "device" else lambda b: b
    )
    return jax.jit(
        make_train_step(run.method, run.tx, run.schedule, prepare),
        donate_argnums=0,
        out_shardings=(run.placement, sharding.replicated(mesh)),
    )


def batch_shapes(c, mesh, *, labels: bool) -> Batch:
    """The shapes, on the mesh, of the batches that a step is fed with.

    The pictures need not be there: for small views on the device, they are taken to be
    a set that is cut there too (see `data/whole.py`).
    """
    n, views = c.data.batch_size, expand(recipe(c))

    def rows(dtype, *shape):
        place = sharding.by_batch(mesh)
        return jax.ShapeDtypeStruct((n, *shape), dtype, sharding=place)

    batch = Batch(index=rows(np.int32), label=rows(np.int32) if labels else None)
    device = c.data.colour == "device"
    side = decoded_cache.side(views) if device else 0
    if side:
        batch = batch.replace(picture=rows(np.uint8, side, side, 3))
    else:
        made = tuple(rows(np.uint8, v.size, v.size, 3) for v in views)
        batch = batch.replace(views=made)
    if device:
        draw = decoded_cache.draw if side else augment.draw
        draws = draw(views, c.seed, 0, 0, np.arange(n))
        shapes = jax.tree.map(lambda x: rows(x.dtype, *x.shape[1:]), draws)
        batch = batch.replace(draws=shapes)
    return batch


def abstract(run: Run):
    """The state's template for restoring a checkpoint."""
    return template(run.shapes, run.placement)


def features(
    c, run: Run, state, source: Source, mesh, alive: Callable[[], None] = lambda: None
) -> Features:
    """Features of all pictures of a source by the branch that the method keeps.

    alive: called with each batch of them.
    """
    batches = pipeline.eval_batches(
        source,
        size=c.data.image_size,
        batch_size=-(-c.evaluate.batch_size // mesh.size) * mesh.size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    params, stats = run.method.kept(state)
    return extract(run.method.network.encode, params, stats, fed(batches, alive), mesh)


def pixels(c, source: Source) -> np.ndarray:
    """All pictures as the encoder sees them: float32 [N, H * W * 3] in [0, 1]."""
    batches = pipeline.eval_batches(
        source, size=c.data.image_size, batch_size=c.evaluate.batch_size
    )
    rows = [batch.views[0][batch.valid] for batch in batches]
    return np.concatenate(rows).reshape(len(source), -1) / np.float32(255)


def fed(batches, alive: Callable[[], None]):
    """The same batches; calls `alive` with each."""
    for batch in batches:
        alive()
        yield batch


# A work directory: whose it is, and on what data it began.


def sizes(workdir) -> dict[str, int]:
    """How many images and classes a run is trained on, as `assemble` wants to know.

    Raises:
      ValueError: as `read_saved`.
    """
    data = read_saved(workdir, "data.json")
    return {"images": data["pictures"], "classes": data["classes"]}


def claim(c, source: Source, workdir) -> None:
    """Makes the work directory the config's own, or finds that it is already.

    One in which no step was logged and nothing was saved is anybody's.

    Raises:
      ValueError: if it belongs to a run with another config or on other pictures, with
        the differences; or if the processes do not share it.
    """
    folder = epath.Path(workdir)
    mine = {
        "config.json": config.plain(c),
        "data.json": {
            "pictures": len(source),
            "classes": source.classes,
            "pictures read together": source.block,
        },
    }
    with multihost.first_goes_first():
        there = {path.name for path in folder.iterdir()} if folder.exists() else ()
        for name, now in mine.items():
            if name in there and _has_begun(folder, there):
                _compare(read_saved(folder, name), now, folder)
        if jax.process_index() == 0:
            for name, now in mine.items():
                files.write(str(folder / name), json.dumps(now, indent=2) + "\n")
    if jax.process_count() > 1:
        path = folder / "config.json"
        multihost.agree(path.read_text() if path.exists() else "", workdir)


def _has_begun(folder, there) -> bool:
    return "metrics.jsonl" in there or (
        "checkpoints" in there and any((folder / "checkpoints").iterdir())
    )


def _compare(was: dict, now: dict, folder) -> None:
    lines = config.differences(was, now, config.MAY_CHANGE)
    if lines:
        told = "\n  ".join(lines)
        raise ValueError(
            f"{folder} belongs to a run with another config or other data:\n  {told}\n"
            "Take another --workdir, or what began it."
        )


def read_saved(workdir, name: str = "config.json") -> dict:
    """What a run has written down about itself.

    Raises:
      ValueError: if it is not there or was damaged.
    """
    path = epath.Path(workdir) / name
    if not path.exists():
        raise ValueError(f"{workdir} is no work directory: it has no {name}.")
    try:
        saved = json.loads(path.read_text())
    except ValueError:
        saved = None
    if not isinstance(saved, dict):
        raise ValueError(
            f"{path} is damaged: it is no JSON object. Without it nobody knows what "
            f"{workdir} holds; take another --workdir, or put the file back."
        )
    return saved
