"""The tables of README and docs are those of their data."""

import csv
import importlib.util
import pathlib
import re

import pytest

from simclr_jax.reproduce.rows import ROWS
from simclr_jax.zoo import published

RESULTS = pathlib.Path("docs/results")
spec = importlib.util.spec_from_file_location("tables", "docs/tables.py")
assert spec
assert spec.loader
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)


def lines(name):
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def shown():
    """The names of the tables on the pages."""
    text = "".join(path.read_text() for path in tables.pages())
    return re.findall(r"<!-- table: (\w+) -->", text)


def test_the_pages_are_up_to_date(capsys):
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


def test_every_table_and_every_file_of_data_is_shown():
    assert set(shown()) == tables.TABLES.keys()
    derived = {"plans", "baselines"}  # of simclr_jax/reproduce, of accuracies.csv
    names = {path.stem for path in RESULTS.iterdir()}
    assert names == tables.TABLES.keys() - derived | {"methods"}


def test_a_table_is_written_between_its_marks_only():
    marks = "<!-- table: input -->\n{}<!-- end -->"
    page = f"before\n\n{marks}\n\nafter\n"
    written = tables.update(page.format("| old |\n"))
    assert written == page.format(tables.render("input"))
    assert tables.update(written) == written
    first, rule, row, *_ = tables.render("input").splitlines()
    assert (first, rule) == ("| pipeline | ms an image |", "| --- | --- |")
    assert row == "| decoding alone | 1.38 |"


def test_a_page_that_is_out_of_date_is_named(tmp_path, monkeypatch, capsys):
    page = tmp_path / "docs" / "input.md"
    page.parent.mkdir()
    (tmp_path / "README.md").write_text("no tables\n")
    page.write_text("<!-- table: input -->\n<!-- end -->\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    assert tables.main(["--check"]) == 1
    assert "docs/input.md" in capsys.readouterr().out
    assert page.read_text() == "<!-- table: input -->\n<!-- end -->\n"
    assert tables.main([]) == 0
    assert "decoding alone" in page.read_text()
    assert tables.main(["--check"]) == 0


def test_scores_of_several_seeds_are_a_mean_and_a_range():
    texts = [tables.mean_and_range(x) for x in ([], [4.0], [1.0, 2.0, 6.0])]
    assert texts == ["", "4.0", "3.0 (1.0 to 6.0)"]


def test_an_unknown_table_is_an_error():
    with pytest.raises(KeyError, match="inputs"):
        tables.update("<!-- table: inputs -->\n<!-- end -->")


def test_a_cell_without_its_fields_is_a_dash():
    assert tables.cell("{a} to {b}", {"a": "1", "b": ""}) == "-"


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.internal])
def test_the_measured_rows_are_in_the_results(name):
    row = ROWS[name]
    column = "z_map2d" if row.protocol == "map2d" else "h_linear"
    measured = [x[column] for x in lines("accuracies") if x["config"] == name]
    assert str(row.published) == measured[0]


@pytest.mark.parametrize("line", lines("methods"), ids=lambda line: line["method"])
def test_a_method_is_shown_with_its_published_row_and_its_own_quickstart(line):
    row = ROWS[line["row"]]
    (shown_line,) = [
        text
        for text in tables.render("methods").splitlines()
        if text.startswith(f"| {line['method']} |")
    ]
    numbers = f"{row.published} ({row.model}, {row.epochs} epochs, {row.protocol})"
    measured = [x for x in lines("accuracies") if x["config"] == line["quickstart"]]
    assert f"| {numbers} | {measured[0]['h_linear']} (untrained" in shown_line
    assert line["link"].endswith(row.paper.removeprefix("arXiv:"))


def test_every_method_learns_in_its_quickstart():
    for line in lines("accuracies"):
        gain = float(line["h_linear"]) - float(line["untrained_h_linear"])
        assert gain > 8, line


def test_the_counts_on_the_pages():
    """Of rows and of published checkpoints."""
    reproduce = pathlib.Path("docs/reproduce.md").read_text()
    assert f"has {len(ROWS)} rows" in reproduce
    zoo = pathlib.Path("docs/zoo.md").read_text()
    assert f"{len(published.checkpoints())} published checkpoints" in zoo
