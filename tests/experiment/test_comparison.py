"""Scores of two work directories, and what makes them incomparable."""

import copy
import json

import pytest

from simclr_jax.cli import common, evaluate
from simclr_jax.evaluate.scores import difference, wilson
from simclr_jax.experiment.comparison import compare

PRINT = {
    "protocol": "knn",
    "features": "h",
    "preprocessing": {"resize": [32, 32]},
    "classes": "c" * 64,
    "training data": "5000 pictures, " + "t" * 64,
    "test data": "1000 pictures, " + "e" * 64,
    "weights": "w" * 64,
    "package": "p" * 64,
}


def score(right, count=1000, **changes):
    interval = list(wilson(right, count))
    result = {"accuracy": right / count, "interval": interval, "count": count}
    return result | {"settings": {"k": 200}, "fingerprint": PRINT | changes}


@pytest.fixture
def folders(tmp_path):
    """Two work directories; kNN of z is in the first one only."""
    a = {"knn": {"h": score(417), "z": score(300)}, "linear": {"h": score(461)}}
    b = {"knn": {"h": score(430, weights="v")}, "linear": {"h": score(560, package="")}}
    for name, results in (("a", a), ("b", b)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    return str(tmp_path / "a"), str(tmp_path / "b")


def test_interval_of_a_difference_as_published():
    """Newcombe 1998, table II, (a): 56/70 and 48/80, method 10."""
    results = [
        {"accuracy": right / n, "interval": wilson(right, n)}
        for right, n in ((48, 80), (56, 70))
    ]
    assert difference(*results) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference(*results[::-1]) == pytest.approx((-0.3339, -0.0524), abs=5e-5)


def test_a_run_that_was_not_evaluated(folders, tmp_path):
    with pytest.raises(ValueError, match=r"c has no results.*evaluate it first"):
        compare(folders[0], str(tmp_path / "c"))


def test_common_scores_are_compared(folders):
    knn, linear = compare(*folders)
    assert (knn.protocol, knn.feature, knn.first, knn.second) == (
        *("knn", "h"),
        *(0.417, 0.43),
    )
    assert not knn.differs
    assert not knn.note
    assert linear.differs
    assert linear.interval[0] > 0
    assert linear.note == "the same weights, measured by other sources of simclr_jax"
    assert compare(*folders, protocol="linear", feature="h") == [linear]


def test_the_command_prints_them(folders, capsys):
    evaluate.main(["--compare", *folders])
    first, second, _, head, knn, linear = capsys.readouterr().out.splitlines()
    assert (first, second) == (f"A {folders[0]}", f"B {folders[1]}")
    assert head.endswith("B - A, 95 % interval")
    assert knn.split()[:5] == ["knn", "h", "41.7", "43.0", "+1.3"]
    assert "they differ" in linear
    assert "they differ" not in knn


def changed(folder, change):
    path = f"{folder}/results.json"
    with open(path) as file:
        results = json.load(file)
    change(results["knn"]["h"])
    with open(path, "w") as file:
        json.dump(results, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x["settings"].update(k=20), r"knn of h: settings.k \(200 and 20\)"),
        (lambda x: x["settings"].update(weighted=True), "knn of h: settings.weighted"),
        (lambda x: x["fingerprint"].update(classes="d" * 64), "knn of h: classes;?"),
        (
            lambda x: x["fingerprint"].update(preprocessing={"resize": [64, 64]}),
            "knn of h: preprocessing",
        ),
        (lambda x: x["fingerprint"].update({"test data": "x"}), "knn of h: test data"),
        (
            lambda x: x["fingerprint"].update({"training data": "x"}),
            "knn of h: training data",
        ),
        (lambda x: x.pop("fingerprint"), "no fingerprint, as an older version"),
    ],
)
def test_unlike_scores_are_refused(folders, change, message):
    changed(folders[1], change)
    with pytest.raises(common.UsageError, match=message) as error:
        evaluate.main(["--compare", *folders])
    assert "\n" not in str(error.value)
    (linear,) = compare(*folders, protocol="linear")  # the others still can be
    assert linear.protocol == "linear"


def test_nothing_to_compare(folders, tmp_path):
    with pytest.raises(ValueError, match=r"no score in common: .*knn of z"):
        compare(*folders, protocol="knn", feature="z")
    with pytest.raises(ValueError, match=r"--protocol: unknown 'lineal'.*'linear'"):
        compare(*folders, protocol="lineal")
    with pytest.raises(ValueError, match=r"no results\.json"):
        compare(folders[0], str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --workdir DIR, or --compare"),
        (["--workdir=a", "--compare", "a", "b"], "give --workdir DIR, or --compare"),
        (["--compare", "a", "b", "--preset=moco"], "takes no --preset"),
        (["--compare", "a", "b", "--config.seed=1"], "takes no --preset"),
    ],
)
def test_arguments_that_exclude_each_other(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        evaluate.main(copy.copy(arguments))
    assert end.value.code == common.USAGE
    assert message in capsys.readouterr().err
