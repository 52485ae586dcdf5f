"""The scores of two work directories side by side, if they are of one kind."""

from typing import Any, NamedTuple

from etils import epath

from simclr_jax.evaluate.scores import difference
from simclr_jax.experiment.workdir import read_saved
from simclr_jax.suggest import check_name

FREE = ("weights", "package")  # of a fingerprint: may differ


class Comparison(NamedTuple):
    """A score of two runs."""

    protocol: str
    feature: str
    first: float  # accuracies in [0, 1]
    second: float
    interval: tuple[float, float]  # 95 %, of second - first
    note: str  # "", or what else is to be known

    @property
    def differs(self) -> bool:
        """Whether 0 is not in the interval."""
        low, high = self.interval
        return low > 0 or high < 0


def compare(
    first: str, second: str, protocol: str = "", feature: str = ""
) -> list[Comparison]:
    """Compares the scores that both work directories have.

    Args:
      first, second: the work directories, with a results.json.
      protocol, feature: only those of this protocol or feature; "": all.

    Raises:
      ValueError: one has no scores, or they have no such score in common; or one was
        measured with other settings, data, classes or pictures, each of which is named.
    """
    for folder in (first, second):
        if not (epath.Path(folder) / "results.json").exists():
            raise ValueError(
                f"{folder} has no results.json. If it is a work directory, "
                f"evaluate it first: simclr-jax evaluate --workdir {folder}"
            )
    a, b = (_scores(read_saved(folder, "results.json")) for folder in (first, second))
    for name, value, i in (("--protocol", protocol, 0), ("--features", feature, 1)):
        if value:
            check_name(value, sorted({key[i] for key in {**a, **b}}), name)
    asked = [x for x in a if protocol in ("", x[0]) and feature in ("", x[1])]
    common = [key for key in asked if key in b]
    if not common:
        raise ValueError(
            f"{first} and {second} have no score in common: {_listed(a)} and "
            f"{_listed(b)}."
        )
    unlike = [x for key in common for x in _unlike(" of ".join(key), a[key], b[key])]
    if unlike:
        raise ValueError(
            f"{first} and {second} cannot be compared: {'; '.join(unlike)}. Evaluate "
            "one again, or give --protocol and --features of scores of one kind."
        )
    return [_comparison(key, a[key], b[key]) for key in common]


def _scores(results: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (protocol, feature): score
        for protocol, scores in results.items()
        for feature, score in scores.items()
    }


def _listed(scores: dict[tuple[str, str], Any]) -> str:
    return ", ".join(" of ".join(key) for key in scores) or "none"


def _unlike(name: str, a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """ "NAME: FIELD, A and B" of every field that differs and must not."""
    if "fingerprint" not in a or "fingerprint" not in b:
        return [f"{name}: it has no fingerprint, as an older version measured it"]
    fields = [
        {f"settings.{key}": value for key, value in score["settings"].items()}
        | {k: x for k, x in score["fingerprint"].items() if k not in FREE}
        for score in (a, b)
    ]
    lines = []
    for key in sorted({*fields[0], *fields[1]}):
        x, y = (values.get(key) for values in fields)
        if x != y:
            shown = "" if len(f"{x}{y}") > 100 else f" ({x} and {y})"
            lines.append(f"{name}: {key}{shown}")
    return lines


def _comparison(
    key: tuple[str, str], a: dict[str, Any], b: dict[str, Any]
) -> Comparison:
    same = {k: a["fingerprint"][k] == b["fingerprint"][k] for k in FREE}
    notes = ["the same weights"] if same["weights"] else []
    notes += [] if same["package"] else ["measured by other sources of simclr_jax"]
    interval = difference(a, b)
    return Comparison(*key, a["accuracy"], b["accuracy"], interval, ", ".join(notes))
