"""Evaluates the encoder of a finished or running work directory.

  simclr-jax evaluate --workdir DIR
      [--protocol knn|linear|linear_augmented|map2d|factors] [--features h|z]
      [--config.evaluate.KEY=value ...] [--config.method.name=package.module:factory]

Without --protocol: kNN and linear accuracy on cached features, for h of the untrained
and of the trained encoder and for z, as a table; embedding.png and curves.png. Where z
has two dimensions, embedding.png is that map, and map2d compares it with t-SNE and PCA
of the pixels. Only linear_augmented and, for maps, map2d are comparable with published
numbers. factors shows how much each feature knows of what the augmentation drew: crop,
colours and so on; it needs no labels. All scores are kept in DIR/results.json. Code
from outside this package, of which DIR was trained, is only run if it is named again;
see docs/own_parts.md.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from simclr_jax.cli import common
from simclr_jax.suggest import check_name

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from simclr_jax.experiment.evaluation import Evaluation

EXAMPLE = "simclr-jax evaluate --workdir runs/quickstart --protocol knn"
PROTOCOLS = ("knn", "linear", "linear_augmented", "map2d", "factors")
QUICK = ("knn", "linear")
MAY_SET = (
    *("evaluate.", "data.name", "data.data_dir", "data.eval_split"),
    "data.bank_split",
)
TITLES = {"z": "z, its projection"}  # row titles of features
COLUMNS = {"knn": ("kNN", 6), "linear": ("linear", 7), "map2d": ("map", 6)}

Row = tuple[str, dict[str, float]]  # title, {protocol: accuracy}


def main(argv: list[str]) -> None:
    """Evaluates as the arguments say; see `common.run_and_exit` for the exit codes."""
    arguments, changes = read(argv)
    import jax

    from simclr_jax import compilation_cache, sharding
    from simclr_jax.cli import runtime
    from simclr_jax.experiment.evaluation import EVALUATED, Evaluation
    from simclr_jax.experiment.workdir import check_inputs, saved_config
    from simclr_jax.storage.access import check_folder

    workdir, protocol = arguments.workdir, arguments.protocol
    with common.usage_errors():
        check_folder(workdir, write=True)
        c = saved_config(workdir, changes, sections=EVALUATED, protocol=protocol)
        check_inputs(c, workdir)
    runtime.join_cluster()
    mesh = sharding.make_mesh()
    with compilation_cache.enabled(), jax.set_mesh(mesh):
        with common.usage_errors():
            evaluation = Evaluation(workdir, mesh, changes, protocol, report)
            if protocol and protocol != "factors":
                evaluation.check_labelled(protocol)
            names = evaluation.feature_names
            if arguments.features:
                check_name(arguments.features, names, "--features")
        if evaluation.newly_initialised:
            layers = ", ".join(evaluation.newly_initialised)
            say(f"randomly initialised, as the imported file lacks them: {layers}")
        if protocol == "factors":
            show_factors(evaluation, mesh, arguments.features)
        elif protocol:
            default = names[-1] if protocol == "map2d" else names[0]
            score(evaluation, protocol, arguments.features or default)
        else:
            evaluate_quickly(evaluation, workdir)


def read(argv: list[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The arguments, and the changes of the config.

    Raises:
      UsageError: an invalid name or key; the message suggests or lists valid ones.
      SystemExit: for unknown arguments; the message is printed.
    """
    parser = common.Parser(
        prog="simclr-jax evaluate", description=__doc__, example=EXAMPLE
    )
    parser.add_argument("--workdir", required=True, help="of a run or an import")
    names = ", ".join(PROTOCOLS)
    parser.add_argument("--protocol", default="", help=f"{names}, or module:function")
    parser.add_argument("--features", default="", help="one that the method has: h, z")
    arguments, changes = parser.parse_with_changes(argv)
    with common.usage_errors():
        if arguments.protocol and ":" not in arguments.protocol:
            check_name(arguments.protocol, PROTOCOLS, "--protocol")
    if arguments.features and not arguments.protocol:
        parser.error(f"--features needs a --protocol: {names}.")
    from simclr_jax.storage.paths import absolute

    with common.usage_errors():
        for key, _ in changes:
            if key not in common.PART_NAMES and not key.startswith(MAY_SET):
                raise ValueError(
                    f"--config.{key} belongs to the training; evaluate can change "
                    f"{', '.join(MAY_SET)}."
                )
        arguments.workdir = absolute(arguments.workdir)
    return arguments, changes


def say(text: str) -> None:
    """Prints on process 0."""
    import jax

    if jax.process_index() == 0:
        print(text, flush=True)


def report(line: str) -> None:
    """Prints progress on stderr of process 0."""
    import jax

    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


def score(
    evaluation: "Evaluation", protocol: str, feature: str, *, trained: bool = True
) -> float:
    """Evaluates, saves and prints the score; returns the accuracy in [0, 1]."""
    from tqdm import tqdm

    with common.usage_errors(started=True):  # settings that are invalid for this data
        if protocol == "linear_augmented":
            with tqdm(desc=protocol, unit="step", disable=None) as bar:

                def progress(done: int, total: int) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                result = evaluation.score(protocol, feature, progress=progress)
        else:
            result = evaluation.score(protocol, feature, trained=trained)
    name = feature if trained else f"untrained_{feature}"
    return keep(evaluation, protocol, name, result)


def show_factors(evaluation: "Evaluation", mesh: "Mesh", feature: str) -> None:
    """Evaluates a feature, or all, by factors; saves the scores, prints the table."""
    from simclr_jax.experiment.factor_scores import factor_scores, table

    with common.usage_errors(started=True):
        scores = factor_scores(evaluation, mesh, feature, report)
    for name, result in scores.items():
        evaluation.save("factors", name, result)
    say(table(scores))


def keep(evaluation: "Evaluation", protocol: str, name: str, result: dict) -> float:
    """Prints a score and saves it in results.json; returns the accuracy."""
    say(f"{protocol:17} {name:13} {100 * result['accuracy']:5.1f} %")
    evaluation.save(protocol, name, result)
    return result["accuracy"]


def evaluate_quickly(evaluation: "Evaluation", workdir: str) -> None:
    """Prints the table of accuracies and writes the plots."""
    import jax

    evaluation.features()
    if evaluation.labelled:
        rows = score_rows(evaluation)
        if jax.process_index() == 0:
            rows += pixel_rows(evaluation) if evaluation.planar else []
            print(table(rows, maps=evaluation.planar))
            print("\n".join(remarks(evaluation, rows)))
    else:
        say(f"{evaluation.data} has no labels: no accuracies.")
    if jax.process_index() == 0:
        print(f"\n{workdir}: {', '.join(evaluation.draw())}")


def score_rows(evaluation: "Evaluation") -> list[Row]:
    """Scores of the quick protocols: h of the untrained encoder, then all features."""
    trained = f"after {evaluation.step} steps"
    rows = [
        (f"h, untrained {evaluation.config.encoder.name}", "h", False),
        (f"h, {'imported' if evaluation.imported else trained}", "h", True),
    ]
    _, *heads = evaluation.feature_names
    rows += [(TITLES.get(name, name), name, True) for name in heads]
    scores = [
        (title, {p: score(evaluation, p, feature, trained=x) for p in QUICK})
        for title, feature, x in rows
    ]
    if evaluation.planar:
        scores[-1][1]["map2d"] = score(evaluation, "map2d", heads[-1])
    return scores


def pixel_rows(evaluation: "Evaluation") -> list[Row]:
    """Scores of the PCA and t-SNE maps of the pixels of all pictures, by map2d."""
    count = len(evaluation.train) + len(evaluation.test)
    if evaluation.map_limit_exceeded:
        say(f"{count} pictures are too many for maps of their pixels.")
        return []
    say(f"drawing maps of the pixels of {count} pictures")
    rows = []
    for name, result in evaluation.pixel_maps():
        accuracy = keep(evaluation, "map2d", f"pixels, {name}", result)
        rows.append((f"pixels, by {name}", {"map2d": accuracy}))
    return rows


def remarks(evaluation: "Evaluation", rows: list[Row]) -> list[str]:
    """Lines on how to read the table."""
    count = len(evaluation.test)
    error = 100 * 0.5 / count**0.5  # the largest, of an accuracy of one half
    lines = [
        f"{count} test pictures: the standard error is at most {error:.1f} points",
        f"chance is {100 * evaluation.chance:.1f} %, the share of the most frequent of "
        f"{evaluation.test.classes} classes",
    ]
    (_, untrained), (_, trained), *_ = rows
    if trained["linear"] <= untrained["linear"]:
        lines.append(
            "h is no better than that of the untrained encoder by linear: the run may "
            "be too short, or its settings unsuitable"
        )
    return lines


def table(rows: list[Row], *, maps: bool) -> str:
    """The accuracies in % as text; with a column for map2d if `maps`."""

    def line(title, texts):
        cells = (f"{texts.get(p, ''):>{width}}" for p, (_, width) in COLUMNS.items())
        return f"{title:30} {' '.join(cells)}".rstrip()

    heads = {p: head for p, (head, _) in COLUMNS.items() if maps or p != "map2d"}
    lines = ["", line("accuracy in % (quick)", heads)]
    for title, scores in rows:
        lines.append(line(title, {p: f"{100 * x:.1f}" for p, x in scores.items()}))
    return "\n".join(lines)
