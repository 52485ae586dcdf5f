"""README, docs and the files beside them: links, the built HTML, CITATION, workflow."""

import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml

from simclr_jax.methods.catalog import METHODS

PAGES = [
    *(pathlib.Path("README.md"), *sorted(pathlib.Path("docs").rglob("*.md"))),
    *sorted(pathlib.Path("launch").glob("*.md")),
]
PROJECT = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
NETWORK = re.compile(
    r"""<(?:link|script|img|iframe|source)\b[^>]*\b(?:href|src)="(?:https?:)?//"""
    r"""|url\(["']?(?:https?:)?//|@import"""
)


def test_the_readme_is_one_page():
    assert len(pathlib.Path("README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_links_lead_to_files(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not re.match(r"https?://", target):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("layer", ["methods", "losses"])
def test_every_module_has_its_docstrings_on_a_page(layer):
    page = pathlib.Path("docs", "api", f"{layer}.md").read_text()
    for path in pathlib.Path("simclr_jax", layer).glob("[!_]*.py"):
        assert f"automodule:: simclr_jax.{layer}.{path.stem}\n" in page


def test_every_method_has_its_row():
    page = pathlib.Path("docs/methods.md").read_text()
    assert all(f"\n| `{name}`" in page for name in METHODS)


def build(root, out):
    """Builds ROOT/docs as `make docs` does; returns the texts of HTML, CSS and JS."""
    assert importlib.util.find_spec("sphinx"), "needs sphinx: make env"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, str(root / "docs"), str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    files = [*out.rglob("*.html"), *out.rglob("*.css"), *out.rglob("*.js")]
    return {str(path.relative_to(out)): path.read_text() for path in files}


def assert_offline(files):
    assert len([name for name in files if name.endswith(".html")]) > 20
    for name, text in files.items():
        if not name.endswith(".js"):
            assert not NETWORK.search(text), name
    assert not any("cdn" in text.lower() for text in files.values())


def test_pages_build_without_the_network(tmp_path):
    """Without the docstrings, which take half a minute."""
    shutil.copytree("docs", tmp_path / "docs", ignore=shutil.ignore_patterns("_build"))
    shutil.copytree("launch", tmp_path / "launch")
    shutil.copy("pyproject.toml", tmp_path)
    for page in (tmp_path / "docs" / "api").glob("*.md"):
        docstrings = r"```{eval-rst}.*?```"
        page.write_text(re.sub(docstrings, "", page.read_text(), flags=re.DOTALL))
    assert_offline(build(tmp_path, tmp_path / "html"))


@pytest.mark.long
def test_all_pages_build_without_the_network(tmp_path):
    files = build(pathlib.Path(), tmp_path)
    assert_offline(files)
    assert "simclr_jax.losses.contrastive.nt_xent" in files["api/losses.html"]


def test_references_to_the_network_are_noticed():
    for text in (
        '<script src="https://x.org/a.js">',
        '<link rel="stylesheet" href="//x.org/a.css">',
        "src: url(https://x.org/a.woff2)",
    ):
        assert NETWORK.search(text)
    assert not NETWORK.search('<a href="https://arxiv.org/abs/2002.05709">')


def test_the_citation_has_what_its_schema_requires():
    citation = yaml.safe_load(pathlib.Path("CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation.keys() >= {"message", "title", "authors"}
    assert citation["title"] == PROJECT["name"]
    assert citation["license"] == PROJECT["license"]
    assert citation["version"] == PROJECT["version"]


def test_the_changelog_has_the_version():
    text = pathlib.Path("docs/CHANGELOG.md").read_text()
    headings = re.findall(r"^## (\S+)(?: - (\d{4}-\d\d-\d\d))?$", text, re.M)
    assert headings[0] == ("Unreleased", "")
    assert PROJECT["version"] in dict(headings)


def test_the_workflow_runs_ci_on_every_supported_python():
    workflow = yaml.safe_load(pathlib.Path(".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"]
    *actions, ci = job["steps"]
    assert ci["run"] == ".ci/run ${{ matrix.python }}"
    assert pathlib.Path(".ci/run").exists()
    assert actions
    for action in actions:  # a commit, which nobody can move as they could a tag
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action["uses"])
