"""Evaluates the encoder of a finished or running work directory.

  simclr-jax evaluate --workdir DIR
      [--protocol knn|linear|linear_augmented|map2d|transfer|finetune|factors
          |attention]
      [--features h|z|head1|cls4|...] [--preset simclr|byol|moco|...]
      [--config.evaluate.KEY=value ...] [--config.method.name=package.module:factory]
  simclr-jax evaluate --compare DIR DIR2 [--protocol NAME] [--features NAME]

Without --protocol: kNN and linear accuracy on cached features, for h of the untrained
and of the trained encoder and for z, as a table; embedding.png and curves.png. Where z
has two dimensions, embedding.png is that map, and map2d compares it with t-SNE and PCA
of the pixels. Only linear_augmented, transfer, finetune and, for maps, map2d are
comparable with published numbers; with --preset, by the settings of a paper, and of the
features that it takes; with --config.data.name, on another data set. A feature is one
of the method's or any layer; docs/evaluation.md lists them. All scores are kept in
DIR/results.json, with 95 % intervals; --compare shows the differences of those of two
work directories, if settings, data and classes are the same. Code from outside this
package, of which DIR was trained, is only run if it is named again; see
docs/own_parts.md. factors shows what features know of the augmentation's draws.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from simclr_jax.cli import common, comparison
from simclr_jax.suggest import check_name

if TYPE_CHECKING:
    from simclr_jax.experiment.evaluation import Evaluation

EXAMPLE = "simclr-jax evaluate --workdir runs/quickstart --protocol knn"
PROTOCOLS = (
    *("knn", "linear", "linear_augmented", "map2d", "transfer", "finetune"),
    *("factors", "attention"),
)
# Units of the protocols with a progress bar.
UNITS = {"linear_augmented": "step", "transfer": "fit", "finetune": "step"}
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
    if arguments.compare:
        comparison.show(arguments)
        return
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
    if protocol == "attention":
        evaluate_attention(workdir, changes)
        return
    runtime.join_cluster()
    mesh = sharding.make_mesh()
    with compilation_cache.enabled(), jax.set_mesh(mesh):
        with common.usage_errors():
            evaluation = Evaluation(workdir, mesh, changes, protocol, report)
            if protocol and protocol != "factors":
                evaluation.check_labelled(protocol)
            names = evaluation.feature_names
            if arguments.features:
                layers = evaluation.layer_names
                check_name(arguments.features, (*names, *layers), "--features")
        if evaluation.newly_initialised:
            absent = ", ".join(evaluation.newly_initialised)
            say(f"randomly initialised, as the imported file lacks them: {absent}")
        if protocol == "factors":
            show_factors(evaluation, arguments.features)
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
    parser.add_argument("--workdir", default="", help="of a run or an import")
    names = ", ".join(PROTOCOLS)
    parser.add_argument("--protocol", default="", help=f"{names}, or module:function")
    parser.add_argument("--features", default="", help="h, z, head1, cls, patch, ...")
    parser.add_argument("--preset", default="", help="a paper's settings of --protocol")
    parser.add_argument("--compare", nargs=2, metavar="DIR", help="work directories")
    arguments, changes = parser.parse_with_changes(argv)
    if bool(arguments.compare) == bool(arguments.workdir):
        parser.error("give --workdir DIR, or --compare DIR DIR2.")
    if arguments.compare and (changes or arguments.preset):
        parser.error("--compare evaluates nothing: it takes no --preset or --config.")
    with common.usage_errors():
        if arguments.protocol and ":" not in arguments.protocol:
            check_name(arguments.protocol, PROTOCOLS, "--protocol")
    if arguments.compare:
        return arguments, changes
    if arguments.features and arguments.protocol == "attention":
        parser.error("--protocol=attention is of the attention itself: no --features.")
    if arguments.features and not arguments.protocol:
        parser.error(f"--features needs a --protocol: {names}.")
    from simclr_jax.storage.paths import absolute

    with common.usage_errors():
        if arguments.preset:
            from simclr_jax.experiment import config

            of_paper, features = config.preset(arguments.protocol, arguments.preset)
            changes = [*of_paper, *changes]
            arguments.features = arguments.features or features
        for key, _ in changes:
            if key not in common.PART_NAMES and not key.startswith(MAY_SET):
                raise ValueError(
                    f"--config.{key} belongs to the training; evaluate can change "
                    f"{', '.join(MAY_SET)}."
                )
        arguments.workdir = absolute(arguments.workdir)
    return arguments, changes


def evaluate_attention(workdir: str, changes: list[tuple[str, str]]) -> None:
    """Evaluates by attention, on one process; prints and saves the score."""
    from simclr_jax import compilation_cache
    from simclr_jax.experiment import attention_scores as scores
    from simclr_jax.experiment.workdir import save_score

    with compilation_cache.enabled(), common.usage_errors(pictures=True):
        encoder, data = scores.open_for_attention(workdir, changes)
        report(f"computing the attention of {len(data)} pictures of {data.name}")
        with common.progress_bar("attention", "picture") as progress:
            result = scores.attention_score(encoder, data, progress)
    save_score(workdir, "attention", scores.FEATURE, result)
    say(scores.text(result))


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
    with common.usage_errors(started=True):  # settings that are invalid for this data
        if protocol in UNITS:
            with common.progress_bar(protocol, UNITS[protocol]) as progress:
                result = evaluation.score(
                    protocol, feature, trained=trained, progress=progress
                )
        else:
            result = evaluation.score(protocol, feature, trained=trained)
    name = evaluation.score_name(protocol, feature)
    name = name if trained else f"untrained_{name}"
    return keep(evaluation, protocol, name, result)


def show_factors(evaluation: "Evaluation", feature: str) -> None:
    """Scores a feature by factors, or h, z and the head's layers; prints the table."""
    from simclr_jax.experiment.factor_table import table

    heads = [name for name in evaluation.layer_names if name.startswith("head")]
    first, *last = evaluation.feature_names
    results = {}
    for name in [feature] if feature else [first, *heads, *last]:
        with common.usage_errors(started=True):
            results[name] = evaluation.score("factors", name)
        evaluation.save("factors", name, results[name])
    say(table(results))


def keep(evaluation: "Evaluation", protocol: str, name: str, result: dict) -> float:
    """Prints a score and saves it in results.json; returns the accuracy."""
    from simclr_jax.evaluate.scores import text

    say(f"{protocol:17} {name:13} {text(result)}")
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
