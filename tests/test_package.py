"""Requirements of the package, files of its wheel, and runs of an installed wheel."""

import ast
import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tools import with_devices

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "simclr_jax"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ("3.11", "3.12", "3.13")
PINS = ("requirements.txt", "tests/zoo/requirements.txt", "requirements.lock")

DISTRIBUTIONS = {  # of the modules with another name
    "google.api_core": "google-api-core",
    "google.auth": "google-auth",
    "google.cloud": "google-cloud-storage",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
}
IMPORTED_BY_OTHERS = {"grpcio-status", "importlib-resources"}


# Requirements.


def pins(version: str) -> dict[str, str]:
    """{distribution: release} that the pinned files install on a version of Python."""
    result: dict[str, str] = {}
    for path in reversed(PINS):
        for line in (ROOT / path).read_text().splitlines():
            text = line.partition(" #")[0].rstrip(" \\")
            if not re.match(r"[\w.-]+==", text):
                continue
            pin = Requirement(text)
            environment = {"python_version": version, "sys_platform": "linux"}
            if pin.marker is None or pin.marker.evaluate(environment):
                (specifier,) = pin.specifier
                result[canonicalize_name(pin.name)] = specifier.version
    return result


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


@pytest.mark.parametrize("version", PYTHONS)
def test_every_requirement_admits_its_pin(version):
    requirements = [*PROJECT["dependencies"], *itertools.chain(*EXTRAS.values())]
    pinned = pins(version)
    assert len(requirements) > 30
    for requirement in map(Requirement, requirements):
        release = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(release), f"{requirement}: {release}"


def imported() -> dict[str, str]:
    """{distribution: a file} of the imports of the package, also inside functions."""
    result: dict[str, str] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for module in modules:
                parts = module.split(".")
                if parts[0] not in sys.stdlib_module_names | {"simclr_jax"}:
                    name = ".".join(parts[: 2 if parts[0] == "google" else 1])
                    name = DISTRIBUTIONS.get(name, name)
                    result[canonicalize_name(name)] = str(path)
    return result


def test_what_is_imported_is_declared_and_the_reverse():
    distributions, declared = imported(), names(PROJECT["dependencies"])
    missing = {name: distributions[name] for name in distributions.keys() - declared}
    assert missing == {}
    assert declared - distributions.keys() == IMPORTED_BY_OTHERS


def test_what_is_imported_for_an_option_is_an_extra():
    sources = [path.read_text() for path in PACKAGE.rglob("*.py")]
    optional = re.findall(r'import_optional\("(\w+)"', "".join(sources))
    assert optional
    assert set(optional) <= names(EXTRAS["export"])


def test_what_the_tests_import_is_an_extra():
    allowed = names(PROJECT["dependencies"] + EXTRAS["test"])
    heading = "# for `make test`"
    text = (ROOT / "requirements.txt").read_text().partition(heading)[2]
    pinned = set(re.findall(r"^([\w.-]+)==", text.partition("# for")[0], re.MULTILINE))
    assert pinned - {"ruff", "pyrefly"} <= allowed  # those two are of `make lint`


# The wheel.


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without network from the sdist, in a path with spaces."""
    folder = tmp_path_factory.mktemp("with space")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("simclr_jax", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    build = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    (folder / "dist").mkdir()
    execute([sys.executable, "-c", build], folder)
    (sdist,) = (folder / "dist").iterdir()
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir=wheels"]
    execute([sys.executable, "-m", "pip", "wheel", *options, str(sdist)], folder)
    (path,) = (folder / "wheels").iterdir()
    return path


def execute(command, folder, **environment):
    """Runs a command; returns the finished process. A variable of "" is unset."""
    variables = with_devices(1) | environment
    return subprocess.run(
        command,
        cwd=folder,
        env={name: value for name, value in variables.items() if value},
        capture_output=True,
        text=True,
        check=True,
    )


def files(folder: pathlib.Path) -> set[str]:
    """The files of a folder, without bytecode."""
    paths = {path for path in folder.rglob("*") if path.is_file()}
    return {
        str(path.relative_to(folder))
        for path in paths
        if path.parent.name != "__pycache__"
    }


def test_the_wheel_holds_the_package_and_the_configs_and_nothing_else(wheel):
    expected = {f"simclr_jax/{name}" for name in files(PACKAGE)}
    expected |= {f"simclr_jax/configs/{name}" for name in files(ROOT / "configs")}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_an_installed_wheel_runs_by_itself(wheel, tmp_path):
    """Elsewhere, with an unwritable HOME or none, and with a git that fails."""
    site, elsewhere = tmp_path / "site packages", tmp_path / "else where"
    elsewhere.mkdir()
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(f"#!/bin/sh\necho $* >>'{tmp_path}/git.log'; exit 1\n")
    git.chmod(0o755)
    options = ["--no-deps", "--no-index", "--target", str(site)]
    execute([sys.executable, "-m", "pip", "install", *options, str(wheel)], tmp_path)

    path = f"{git.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PYTHONPATH": str(site), "PATH": path}

    def simclr_jax(*arguments, home):
        command = [sys.executable, str(site / "bin" / "simclr-jax"), *arguments]
        return execute(command, elsewhere, HOME=home, **environment)

    script = "import simclr_jax; print(simclr_jax.__file__)"
    output = execute([sys.executable, "-c", script], elsewhere, **environment).stdout
    assert pathlib.Path(output.strip()).is_relative_to(site)

    command = ["pretrain", "--config", "quickstart", "--workdir", "a run"]
    command += ["--config.steps=2", "--config.data.batch_size=8"]
    command += ["--config.encoder.channels=4", "--config.method.hidden=16"]
    run = simclr_jax(*command, home="/dev/null/none")
    assert "step 2/2" in run.stdout + run.stderr
    assert not re.search("Traceback|[Ww]arning|matplotlib|Error", run.stderr)
    assert (elsewhere / "a run" / "checkpoints" / "2").is_dir()
    assert (elsewhere / "a run" / "views.png").stat().st_size > 200

    assert "simclr_cifar10_laptop" in simclr_jax("reproduce", "--list", home="").stdout
    assert not (tmp_path / "git.log").exists()
