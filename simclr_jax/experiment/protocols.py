"""How the protocols get what they judge from an evaluation.

Most protocols get features as arrays, see `parts.EvaluationProtocol`. One that needs
the pictures or the network has a function here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simclr_jax.data import resizing
from simclr_jax.evaluate.factors import factors
from simclr_jax.evaluate.finetune import Task, finetune
from simclr_jax.evaluate.linear_augmented import linear_augmented
from simclr_jax.evaluate.linear_transfer import transfer
from simclr_jax.experiment import build, schema
from simclr_jax.experiment.extraction import extracted
from simclr_jax.experiment.finetuning import shortened
from simclr_jax.storage.paths import absolute

if TYPE_CHECKING:
    from simclr_jax.experiment.evaluation import Evaluation

Settings = dict[str, Any]
Progress = Callable[[int, int], None]  # (steps done, steps in all)
Runner = Callable[["Evaluation", str, bool, Settings, Progress], dict[str, Any]]


def run(
    evaluation: "Evaluation",
    protocol: str,
    feature: str,
    trained: bool,
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """The result of a protocol.

    Args:
      protocol: one of `schema.PROTOCOLS`, or `package.module:protocol`.
      feature: of the evaluation's features.
      trained: whether the network is the trained one, or a newly initialised one.
      settings: the keyword arguments of the protocol.
      progress: called with the steps done and the total, by a protocol of many steps.
    """
    if protocol in RUNNERS:
        return RUNNERS[protocol](evaluation, feature, trained, settings, progress)
    train, test = evaluation.features(feature, trained=trained)
    arrays = train.values[feature], train.label
    arrays += test.values[feature], test.label, evaluation.train.classes
    section = {"name": protocol, **settings}
    return schema.call("protocol", section, *arrays, mesh=evaluation.mesh)


def _linear_augmented(
    evaluation: "Evaluation",
    feature: str,
    trained: bool,
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    encoder = evaluation.encoder(feature, trained=trained)
    return linear_augmented(
        encoder,
        evaluation.train,
        evaluation.test_features(encoder),
        feature,
        evaluation.config.data.image_size,
        evaluation.mesh,
        progress,
        **settings,
    )


def _transfer(
    evaluation: "Evaluation",
    feature: str,
    trained: bool,
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """On the whole central squares, as in the papers."""
    c, mesh = evaluation.config, evaluation.mesh
    encoder = evaluation.encoder(feature, trained=trained)
    train, test = (
        extracted(c, encoder, source, mesh, crop=resizing.centre_square)
        for source in (evaluation.train, evaluation.test)
    )
    arrays = train.values[feature], train.label, test.values[feature], test.label
    return transfer(*arrays, evaluation.train.classes, mesh, progress, **settings)


def _finetune(
    evaluation: "Evaluation",
    feature: str,
    trained: bool,
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    c, size = evaluation.config, evaluation.config.data.image_size
    network = shortened(evaluation.run, evaluation.weights(trained), size, feature)
    task = Task(
        network,
        evaluation.train,
        evaluation.test,
        size,
        absolute(c.data.data_dir),
        c.evaluate.batch_size,
    )
    return finetune(task, evaluation.mesh, progress, **settings)


def _factors(
    evaluation: "Evaluation",
    feature: str,
    trained: bool,
    settings: Settings,
    progress: Progress,
) -> dict[str, Any]:
    """The factors, and beside them, where there are labels, the result of linear."""
    c = evaluation.config
    scores = factors(
        evaluation.encoder(feature, trained=trained),
        evaluation.train,
        build.recipe(c),
        feature,
        c.data.image_size,
        c.evaluate.batch_size,
        evaluation.mesh,
        **settings,
    )
    if not evaluation.labelled:
        return scores
    linear = c.evaluate.linear.to_dict()
    return run(evaluation, "linear", feature, trained, linear, progress) | scores


RUNNERS: dict[str, Runner] = {
    "linear_augmented": _linear_augmented,
    "transfer": _transfer,
    "finetune": _finetune,
    "factors": _factors,
}
