"""A description of a run that is about to train, for its log."""

from typing import TYPE_CHECKING

import jax

from simclr_jax.data.folder import SEEN

if TYPE_CHECKING:
    from simclr_jax.experiment.training import Training


def lines(training: "Training", first_step: int) -> list[str]:
    """Network, data, length, settings of note and accuracies of a run."""
    c, run, source, _, mesh, workdir = training
    n, batch_size = len(source), c.data.batch_size
    parameters = sum(x.size for x in jax.tree.leaves(run.shapes.params))
    # jit: one program to compile instead of one for each operation
    peak = float(jax.jit(run.schedule)(min(run.warmup, run.total - 1)))
    platform = mesh.devices.flat[0].platform
    count = n // batch_size
    batches = f"{count} batch{'es' if count > 1 else ''}"
    resuming = f"resuming from the checkpoint of step {first_step}"
    return [
        f"{c.method.name}, {c.encoder.name} ({parameters / 1e6:.2f} M parameters), "
        f"{source.name}: {n} pictures in {batches} of {batch_size}",
        f"{run.total} steps, {run.warmup} of warm-up, {c.optim.name} with a rate up to "
        f"{peak:.4g}; on {mesh.size} {platform} device(s) of {jax.process_count()} "
        "process(es)",
        *run.notes,
        *_warnings(training),
        *filter(None, (run.init_note,)),
        *([_accuracies(training)] if source.classes else []),
        *([resuming] if first_step else []),
        f"work directory: {workdir}",
    ]


def _accuracies(training: "Training") -> str:
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


def _warnings(training: "Training") -> list[str]:
    """Lines on settings whose effect may be unexpected."""
    c, run, source = training.config, training.run, training.source
    n, lines = len(source), []
    if c.data.split == SEEN:
        lines.append(
            f"trained on {n} pictures; others are held out for evaluate: the folder "
            "val, validation or test, or else a tenth of each class"
        )
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
