"""How the protocols get what they judge from an evaluation.

Most protocols get features as arrays, see `parts.EvaluationProtocol`. One that needs
the pictures or the network has a function here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simclr_jax.evaluate.linear_augmented import linear_augmented
from simclr_jax.experiment import schema

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


RUNNERS: dict[str, Runner] = {"linear_augmented": _linear_augmented}
