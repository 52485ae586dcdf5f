"""Trains as a config describes, from the newest checkpoint or from step 0."""

import contextlib
import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from simclr_jax import multihost, sharding
from simclr_jax.batch import Batch
from simclr_jax.data import pipeline
from simclr_jax.data.prefetch import feed
from simclr_jax.data.sources import Source
from simclr_jax.evaluate.knn import knn
from simclr_jax.experiment import build, description, health, init_from, schema
from simclr_jax.experiment.extraction import features
from simclr_jax.experiment.views_picture import beside_steps, prepare_views
from simclr_jax.experiment.workdir import check_inputs, record_run
from simclr_jax.state import TrainState
from simclr_jax.storage.access import check_folder
from simclr_jax.storage.paths import absolute
from simclr_jax.train import loop, profile
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.log import Log

# Its argument is a function, steps done -> whether any process was preempted; so is its
# result, steps done -> whether to stop (the state is then saved).
StopSignal = Callable[[Callable[[int], bool]], Callable[[int], bool]]
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


class Result(NamedTuple):
    """The result of a run."""

    workdir: str  # absolute path
    steps: int  # updates done
    metrics: dict[str, float]  # last line of metrics.jsonl: "step", "loss", ...


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
    _, last = profile.steps_of(c.profile)
    if last > run.total:
        raise ValueError(f"profile={c.profile}: the run has {run.total} steps.")
    evaluate = knn_evaluator(c, run, source, mesh, workdir)
    record_run(c, source, workdir)
    return Training(c, run, source, evaluate, mesh, workdir)


def pretrain(config: ConfigDict, workdir: str | os.PathLike) -> Result:
    """Trains as a config describes, or resumes the run of the work directory.

    The same as `simclr-jax pretrain`, in this process and on all its devices, without
    signal handlers. Ctrl-C, or a notebook's "interrupt", saves the state unless it
    arrives within a step, and raises KeyboardInterrupt; the same call resumes, at worst
    from the newest checkpoint (every `checkpoint.every` steps).

    Args:
      config: as from `get_config`.
      workdir: folder of the run's output, on this machine or in a bucket.

    Returns:
      The result; `simclr_jax.load(workdir)` is the trained encoder.

    Raises:
      ValueError: the config cannot be run, or differs from that of the work directory.
      Diverged, CheckpointError: as in `train`.
    """
    schema.check(config)
    workdir = absolute(os.fspath(workdir))
    check_folder(workdir, write=True)
    check_inputs(config, workdir)
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        training = prepare(config, workdir, mesh)
    _, done = train(training)
    lines = (epath.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    metrics = json.loads(lines[-1]) if lines else {}
    return Result(workdir, done, metrics)


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


def train(
    training: Training,
    *,
    stop_signal: StopSignal = lambda preempted: lambda done: False,
    on_progress: Callable[[], None] = lambda: None,
) -> tuple[TrainState, int]:
    """Trains to the last step or until it is asked to stop.

    A new run also draws views.png.

    Args:
      stop_signal: called once there is a state to save.
      on_progress: called whenever the run makes progress.

    Returns:
      the state and the steps done, fewer than the run's total if it was stopped.

    Raises:
      StorageNotShared: the processes do not see the same checkpoints.
      Diverged, CheckpointError: as in `loop.run`.
    """
    with jax.set_mesh(training.mesh):
        return _train(training, stop_signal, on_progress)


def _train(
    training: Training, stop_signal: StopSignal, on_progress: Callable[[], None]
) -> tuple[TrainState, int]:
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
    for line in description.lines(training, first_step):
        log.say(line)
    drawing = contextlib.nullcontext(on_progress)
    if not first_step and jax.process_index() == 0:
        drawing = beside_steps(prepare_views(training), on_progress)
    with drawing as progress:
        batches = feed(_batches(training, first_step), mesh)  # begins to make them
        if first_step:
            state = checkpoints.restore(build.abstract(run), first_step)
        else:
            state = _first_state(training, log, progress)
        steps = profile.steps_of(c.profile if log.active else "")
        step = _announced(build.train_step(c, run, mesh), log)
        with profile.traced(step, steps, first_step, workdir) as step:
            state, done = loop.run(
                step,
                state,
                batches,
                _plan(training, first_step),
                log=log,
                checkpoints=checkpoints,
                evaluate=evaluate,
                health=health.program(c, run, mesh),
                watch=health.watcher(c, run, log),
                stop=stop_signal(checkpoints.preempted),
                on_progress=progress,
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
        health_every=c.health_every,
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
