"""The protocol `factors` on a saved run, with the accuracy of its classes beside it."""

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from simclr_jax.evaluate.factors import factors
from simclr_jax.experiment import build
from simclr_jax.experiment.evaluation import Evaluation, frozen_encoder

METRICS = {"r2": "R2", "balanced_accuracy": "balanced accuracy"}


def factor_scores(
    evaluation: Evaluation,
    mesh: Mesh,
    feature: str = "",
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """The scores of a feature, or of all, on views by the run's recipe.

    Args:
      evaluation: of the run; the views are of its training pictures.
      mesh: of any size.
      feature: one of its `feature_names`, or "" for all.
      report: called with a line before what takes long.

    Returns:
      {feature: what `evaluate.factors.factors` returns, "step", "settings" and "data",
      and with labels the result of the protocol linear on the test pictures}.

    Raises:
      ValueError, FloatingPointError: as in `factors`.
    """
    c = evaluation.config
    settings = c.evaluate.factors.to_dict()
    report(f"computing features of views of {evaluation.data}")
    scores = factors(
        frozen_encoder(evaluation.run, evaluation.state),
        evaluation.train,
        build.recipe(c),
        c.data.image_size,
        c.evaluate.batch_size,
        mesh,
        **settings,
    )
    origin = {"step": evaluation.step, "settings": settings, "data": evaluation.data}
    names = [feature] if feature else evaluation.feature_names
    classes = evaluation.labelled
    return {
        name: (evaluation.score("linear", name) if classes else {})
        | scores[name]
        | origin
        for name in names
    }


def table(scores: dict[str, dict[str, Any]]) -> str:
    """The scores of `factor_scores` as text, in %, a column for each feature."""
    first = next(iter(scores.values()))
    train, test = first["pictures"]

    def line(title: str, cells: list[str]) -> str:
        return f"{title:36}" + "".join(f"{cell:>13}" for cell in cells)

    lines = [
        f"linear probes on views of {train} pictures, scores on views of {test}, in %",
        line("", list(scores)),
    ]
    if "accuracy" in first:
        cells = [f"{100 * result['accuracy']:.1f}" for result in scores.values()]
        lines.append(line("class, accuracy (linear, quick)", cells))
    for name, score in first["factors"].items():
        chance = f" (chance {100 * score['chance']:.0f})" if score["chance"] else ""
        cells = [f"{100 * x['factors'][name]['score']:.1f}" for x in scores.values()]
        lines.append(line(f"{name}, {METRICS[score['metric']]}{chance}", cells))
    if first["left_out"]:
        names = ", ".join(first["left_out"])
        lines.append(f"left out, as the recipe does not vary them: {names}")
    return "\n".join(lines)
