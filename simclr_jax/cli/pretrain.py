"""The training door: config -> data, method, optimiser, loop.

python -m simclr_jax pretrain --config configs/NAME.py --workdir DIR
    [--config.a.b=value ...]
"""

import jax
from etils import epath

from simclr_jax import multihost, sharding
from simclr_jax.cli import common, runtime
from simclr_jax.data import pipeline, tfdata
from simclr_jax.data.prefetch import feed
from simclr_jax.evaluate import plots
from simclr_jax.evaluate.knn import knn
from simclr_jax.experiment import build, config, init_from
from simclr_jax.experiment.workdir import check_inputs
from simclr_jax.storage.access import check_folder
from simclr_jax.storage.paths import absolute
from simclr_jax.train import loop
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.log import Log

EXAMPLE = (
    "python -m simclr_jax pretrain "
    "--config configs/quickstart.py --workdir runs/quickstart"
)

GALLERY = 8  # pictures in views.png


def main(argv: list[str]) -> None:
    """Trains as the command line says; see common.run_and_exit for the exit codes."""
    c, workdir = read(argv)
    with common.usage_errors():
        check_folder(workdir, write=True)
        check_inputs(c, workdir)
    runtime.join_cluster()
    pretrain(c, workdir)


def read(argv: list[str]):
    """The config and the work directory that a command line means.

    Raises:
      UsageError: with the nearest right spelling of what is wrong.
      SystemExit: for words that are not understood at all; the message is printed.
    """
    parser = common.Parser(
        prog="simclr_jax pretrain", description=__doc__, example=EXAMPLE
    )
    parser.add_argument("--config", required=True, help="FILE.py[:key=value,...]")
    parser.add_argument("--workdir", required=True, help="where everything is kept")
    arguments, changes = parser.parse_with_changes(argv)
    with common.usage_errors():
        c = config.read(arguments.config, changes)
        return c, absolute(arguments.workdir)


def pretrain(c, workdir: str):
    """Begins the training that the config describes, or goes on with it.

    Returns:
      the final TrainState.

    Raises:
      UsageError: before anything is begun, if the config cannot be run.
      Preempted: if told to stop; the state was saved.
    """
    runtime.exit_on_sigterm()
    mesh = sharding.make_mesh()
    with common.usage_errors(), jax.set_mesh(mesh):
        source = build.open_data(c, c.data.split, workdir)
        config.check_batch(c, mesh.size, jax.process_count(), len(source))
        job = build.assemble(c, mesh, images=len(source), classes=source.classes)
        job = init_from.begin(c, job, mesh, workdir)
        judge = make_judge(c, job, source, mesh, workdir)
        build.claim(c, source, workdir)
    if jax.process_index() == 0:  # outside the mesh: the others take no part in it
        draw_views(c, source, workdir)
    with jax.set_mesh(mesh):
        return train(c, job, source, judge, mesh, workdir)


def train(c, job: build.Run, source, judge, mesh, workdir: str):
    """The run itself, from the last checkpoint or from the beginning."""
    first = jax.process_index() == 0
    checkpoints = Checkpoints(
        epath.Path(workdir) / "checkpoints",
        **c.checkpoint,
        # The branch to evaluate and export; DINO's is the target.
        about={"method": c.method.name, "keep": job.method.keep},
        before_commit=lambda: log.copy(),  # no checkpoint is ahead of the metrics
    )
    start = checkpoints.latest or 0
    with common.usage_errors():
        multihost.agree(str(start), checkpoints.directory)
    log = Log(workdir, start, job.total, active=first)
    introduce(c, job, source, mesh, start, workdir, log, judged=judge is not None)
    state = checkpoints.restore(build.abstract(job), start) if start else job.create()
    alive = runtime.Watchdog()
    if job.begins and judge and not start:  # what it was worth before it learnt more
        accuracy = judge(state, alive)["knn_accuracy"]
        log.say(f"kNN accuracy before the first step: {100 * accuracy:.1f} %")

    step = build.train_step(c, job, mesh)
    batches = pipeline.train_batches(
        source,
        build.recipe(c),
        batch_size=c.data.batch_size,
        seed=c.seed,
        start_step=start,
        steps=job.total - start,
        colour=c.data.colour,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    plan = loop.Plan(
        start=start,
        total=job.total,
        batch_size=c.data.batch_size,
        log_every=c.log_every,
        judge_every=c.evaluate.every,
        patience=c.patience,
    )
    state, done = loop.run(
        step,
        state,
        feed(batches, mesh),
        plan,
        log=log,
        checkpoints=checkpoints,
        judge=judge,
        stop=runtime.StopSignal(checkpoints.preempted),
        alive=alive,
    )
    checkpoints.close()
    log.close()
    if done < job.total:
        raise common.Preempted(
            f"stopped by a signal; saved at step {done} of {job.total}."
        )
    log.say(f"done: {done} steps; everything is in {workdir}")
    return state


def make_judge(c, job: build.Run, source, mesh, workdir: str):
    """(state, alive) -> {"knn_accuracy"} of h on the evaluation split.

    None where it is not asked for, or where a split has no labels.
    """
    if not (c.evaluate.every and source.classes):
        return None
    test_source = build.open_data(c, c.data.eval_split, workdir)
    if not test_source.classes:
        return None
    if c.data.bank_split:
        source = build.open_data(c, c.data.bank_split, workdir)

    def judge(state, alive):
        bank = build.features(c, job, state, source, mesh, alive)
        test = build.features(c, job, state, test_source, mesh, alive)
        said = knn(
            bank.h,
            bank.label,
            test.h,
            test.label,
            source.classes,
            mesh,
            **c.evaluate.knn,
        )
        return {"knn_accuracy": said["accuracy"]}

    return judge


def introduce(c, job, source, mesh, start, workdir, log: Log, *, judged) -> None:
    """Says what is about to happen."""
    n, batch = len(source), c.data.batch_size
    parameters = sum(x.size for x in jax.tree.leaves(job.shapes.params))
    log.say(
        f"{c.method.name}, {c.encoder.name} ({parameters / 1e6:.2f} M parameters), "
        f"{source.name}: {n} pictures in {n // batch} batches of {batch}"
    )
    peak = float(job.schedule(min(job.warmup, job.total - 1)))
    where = mesh.devices.flat[0].platform
    log.say(
        f"{job.total} steps, {job.warmup} of warm-up, {c.optim.name} with a rate up to "
        f"{peak:.4g}; on {mesh.size} {where} device(s) of {jax.process_count()} "
        "process(es)"
    )
    for note in job.notes:
        log.say(note)
    if c.steps:
        log.say(f"steps={c.steps} is the whole run; warm-up is at most a tenth of it")
    if job.warmup >= job.total:
        log.say("the warm-up is as long as the run: the rate never reaches its peak")
    if "queue" in c.method and c.method.queue > n - batch:
        log.say(
            f"a queue of {c.method.queue} keys from {n} pictures: of each it holds "
            "earlier views, which count as negatives; method.queue may be smaller"
        )
    if not source.classes:
        log.say("no labels: no online probe, no accuracies")
    elif c.evaluate.every and not judged:
        log.say(f"no labels in {c.data.eval_split}: no kNN during the run")
    if job.begins:
        log.say(job.begins)
    if start:
        log.say(f"going on from the checkpoint of step {start}")
    log.say(f"work directory: {workdir}")


def draw_views(c, source, workdir: str) -> None:
    """Writes views.png: pictures and the views of them that the encoder gets."""
    images = tfdata.pictures(source, range(min(GALLERY, len(source))))
    views = pipeline.preview(c, images, c.seed)
    plots.gallery(views, epath.Path(workdir) / "views.png", originals=images)


if __name__ == "__main__":
    common.run_and_exit(main)
