"""Trains as a config describes, from the newest checkpoint or from step 0."""

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import multihost
from simclr_jax.batch import Batch
from simclr_jax.data import pipeline, tfdata
from simclr_jax.data.prefetch import feed
from simclr_jax.data.sources import Source
from simclr_jax.evaluate import plots
from simclr_jax.evaluate.knn import knn
from simclr_jax.experiment import build, init_from, schema
from simclr_jax.experiment.evaluation import features
from simclr_jax.experiment.workdir import record_run
from simclr_jax.state import TrainState
from simclr_jax.train import loop
from simclr_jax.train.checkpoint import Checkpoints, newest
from simclr_jax.train.log import Log

GALLERY = 8  # pictures in views.png

# (state, on_progress) -> metrics; `on_progress` is called after each batch.
Evaluator = Callable[[TrainState, Callable[[], None]], dict[str, float]]


class Training(NamedTuple):
    """A run that is ready to train."""

    config: ConfigDict
    run: build.Run
    source: Source
    evaluate: Evaluator | None
    mesh: Mesh
    workdir: str


def prepare(c: ConfigDict, workdir: str, mesh: Mesh) -> Training:
    """Opens the data, builds the run and records it in the work directory.

    Raises:
      ValueError: the config is invalid, or differs from that of the work directory.
      CheckpointError: the run of `init_from` cannot be read.
    """
    source = build.open_data(c, c.data.split, workdir)
    c, note = with_shrunk_batch(c, len(source))
    schema.check_batch(c, mesh.size, jax.process_count(), len(source))
    run = build.assemble(c, mesh, images=len(source), classes=source.classes)
    run = run._replace(notes=(*filter(None, (note,)), *run.notes))
    run = init_from.with_saved_arrays(c, run, mesh, workdir)
    evaluate = knn_evaluator(c, run, source, mesh, workdir)
    record_run(c, source, workdir)
    return Training(c, run, source, evaluate, mesh, workdir)


def with_shrunk_batch(c: ConfigDict, images: int) -> tuple[ConfigDict, str]:
    """The config with a batch that the data set holds, if data.shrink_batch is true.

    Returns:
      the config, and a line for the log if its batch was shrunk, otherwise "".
    """
    batch_size = c.data.batch_size
    smaller = schema.shrunk(batch_size, images)
    if not c.data.shrink_batch or smaller == batch_size:
        return c, ""
    c = copy.deepcopy(c)
    c.data.batch_size = smaller
    note = f"batch {batch_size} is larger than the {images} pictures: using {smaller}"
    return c, f"{note} (data.shrink_batch)"


def is_finished(training: Training) -> bool:
    """Whether the work directory holds the checkpoint of the run's last step."""
    step = newest(epath.Path(training.workdir) / "checkpoints")
    return step is not None and step >= training.run.total


def knn_evaluator(
    c: ConfigDict, run: build.Run, source: Source, mesh: Mesh, workdir: str
) -> Evaluator | None:
    """A function that returns the kNN accuracy of h as {"knn_accuracy": value}.

    None if the config does not enable it, or if a split has no labels.
    """
    if not (c.evaluate.every and source.classes):
        return None
    test_source = build.open_data(c, c.data.eval_split, workdir)
    if not test_source.classes:
        return None
    if c.data.bank_split:
        source = build.open_data(c, c.data.bank_split, workdir)

    def evaluate(state, on_progress):
        bank = features(c, run, state, source, mesh, on_progress)
        test = features(c, run, state, test_source, mesh, on_progress)
        arrays = bank.values["h"], bank.label, test.values["h"], test.label
        result = knn(*arrays, source.classes, mesh, **c.evaluate.knn)
        return {"knn_accuracy": result["accuracy"]}

    return evaluate


def draw_views(training: Training) -> None:
    """Writes views.png: some pictures and the views of them that the encoder gets."""
    c, source = training.config, training.source
    images = tfdata.read_pictures(source, range(min(GALLERY, len(source))))
    views = pipeline.preview(build.recipe(c), images, c.seed, colour=c.data.colour)
    path = epath.Path(training.workdir) / "views.png"
    plots.gallery(views, path, originals=images)


def train(
    training: Training,
    *,
    stop_signal: Callable[[Callable[[int], bool]], Callable[[int], bool]],
    on_progress: Callable[[], None],
) -> tuple[TrainState, int]:
    """Trains to the last step, or until it is asked to stop; the state is then saved.

    Args:
      stop_signal: called once there is a state to save. Its argument is a function,
        steps done -> whether any process was preempted; so is its result, steps done
        -> whether to stop.
      on_progress: called whenever the run makes progress.

    Returns:
      the state and the steps done, fewer than the run's total if it was stopped.

    Raises:
      StorageNotShared: the processes do not see the same checkpoints.
      Diverged, CheckpointError: as in `loop.run`.
    """
    c, run, _, evaluate, mesh, workdir = training
    checkpoints = Checkpoints(
        epath.Path(workdir) / "checkpoints",
        **c.checkpoint,
        # The branch to evaluate and export; DINO's is the target.
        metadata={"method": c.method.name, "keep": run.method.keep},
        before_commit=lambda: log.copy(),  # no checkpoint is newer than the metrics
    )
    first_step = checkpoints.latest or 0
    multihost.check_shared(str(first_step), checkpoints.directory)
    log = Log(workdir, first_step, run.total, active=jax.process_index() == 0)
    if first_step >= run.total:
        state = checkpoints.restore(build.abstract(run), first_step)
        checkpoints.close()
        log.close()
        log.say(f"run already finished ({first_step} of {run.total} steps): {workdir}")
        return state, first_step
    describe(training, first_step, log)
    if first_step:
        state = checkpoints.restore(build.abstract(run), first_step)
    else:
        state = _first_state(training, log, on_progress)
    state, done = loop.run(
        _announced(build.train_step(c, run, mesh), log),
        state,
        feed(_batches(training, first_step), mesh),
        _plan(training, first_step),
        log=log,
        checkpoints=checkpoints,
        evaluate=evaluate,
        stop=stop_signal(checkpoints.preempted),
        on_progress=on_progress,
    )
    checkpoints.close()
    log.close()
    if done == run.total:
        log.say(f"done: {done} steps; everything is in {workdir}")
    return state, done


def _first_state(
    training: Training, log: Log, on_progress: Callable[[], None]
) -> TrainState:
    """The state at step 0; with `init_from`, logs its kNN accuracy."""
    log.say("initialising the parameters ...")
    state = training.run.create()
    if training.run.init_note and training.evaluate:
        accuracy = training.evaluate(state, on_progress)["knn_accuracy"]
        log.say(f"kNN accuracy before the first step: {100 * accuracy:.1f} %")
    return state


def _announced(step: Callable[..., Any], log: Log) -> Callable[..., Any]:
    """The step; its first call logs that it compiles and how long that took."""
    compiled = False

    def call(state, batch):
        nonlocal compiled
        if compiled:
            return step(state, batch)
        log.say("compiling the training step ...")
        begin = time.monotonic()
        result = step(state, batch)
        compiled = True
        seconds = time.monotonic() - begin
        log.say(f"compiled in {seconds:.0f} s; the first step has been dispatched")
        return result

    return call


def _plan(training: Training, first_step: int) -> loop.Plan:
    c = training.config
    return loop.Plan(
        start=first_step,
        total=training.run.total,
        batch_size=c.data.batch_size,
        log_every=c.log_every,
        evaluate_every=c.evaluate.every,
        patience=c.patience,
    )


def _batches(training: Training, first_step: int) -> Iterator[Batch]:
    c = training.config
    return pipeline.train_batches(
        training.source,
        build.recipe(c),
        batch_size=c.data.batch_size,
        seed=c.seed,
        first_step=first_step,
        steps=training.run.total - first_step,
        colour=c.data.colour,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def describe(training: Training, first_step: int, log: Log) -> None:
    """Logs a description of the run."""
    c, run, source, _, mesh, workdir = training
    n, batch_size = len(source), c.data.batch_size
    parameters = sum(x.size for x in jax.tree.leaves(run.shapes.params))
    log.say(
        f"{c.method.name}, {c.encoder.name} ({parameters / 1e6:.2f} M parameters), "
        f"{source.name}: {n} pictures in {n // batch_size} batches of {batch_size}"
    )
    peak = float(run.schedule(min(run.warmup, run.total - 1)))
    platform = mesh.devices.flat[0].platform
    log.say(
        f"{run.total} steps, {run.warmup} of warm-up, {c.optim.name} with a rate up to "
        f"{peak:.4g}; on {mesh.size} {platform} device(s) of {jax.process_count()} "
        "process(es)"
    )
    for note in (*run.notes, *_warnings(training)):
        log.say(note)
    if run.init_note:
        log.say(run.init_note)
    if source.classes:
        log.say(_accuracies(training))
    if first_step:
        log.say(f"resuming from the checkpoint of step {first_step}")
    log.say(f"work directory: {workdir}")


def _accuracies(training: Training) -> str:
    """A line on the accuracies that are logged, and the chance level."""
    c, classes = training.config, training.source.classes
    names = []
    if c.probe.enabled:
        names.append("probe (a linear classifier of h) on the views of the batch")
    if training.evaluate:
        names.append(f"kNN on {c.data.eval_split} every {c.evaluate.every} steps")
    return (
        f"accuracies: {', '.join(names) or 'none'}; chance is {100 / classes:.1f} % "
        f"(1 of {classes} classes)"
    )


def _warnings(training: Training) -> list[str]:
    """Lines on settings whose effect may be unexpected."""
    c, run, source = training.config, training.run, training.source
    n, lines = len(source), []
    if c.steps:
        lines.append(f"steps={c.steps} is the whole run; warm-up is at most a tenth")
    if run.warmup >= run.total:
        lines.append("the warm-up is as long as the run: the rate never peaks")
    if "queue" in c.method and c.method.queue > n - c.data.batch_size:
        lines.append(
            f"a queue of {c.method.queue} keys from {n} pictures: it holds earlier "
            "views of every picture, which count as negatives; method.queue may be "
            "smaller"
        )
    if not source.classes:
        lines.append("no labels: no online probe, no accuracies")
    elif c.evaluate.every and not training.evaluate:
        lines.append(f"no labels in {c.data.eval_split}: no kNN during the run")
    return lines
