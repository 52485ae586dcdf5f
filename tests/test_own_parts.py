"""The files and commands of docs/own_parts.md: run as they stand, but short."""

import json
import pathlib
import re
import runpy
import shlex
import sys

import jax
import numpy as np
import pytest

from simclr_jax.cli import evaluate, main, pretrain
from simclr_jax.experiment import schema, training
from simclr_jax.models.catalog import ENCODERS
from tests import test_contract
from tests.tools import Tiny, add_method, last_of_each, small_batch, small_method

PAGE = pathlib.Path("docs/own_parts.md").read_text()
FILES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE, re.M | re.S))
BASH = "".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S))
COMMANDS = [shlex.split(line) for line in BASH.replace("\\\n", " ").splitlines()]
SHORT = (  # of pretrain
    *("--config.steps=2", "--config.data.batch_size=16", "--config.log_every=1"),
    "--config.method.hidden=8",
    *("--config.data.split=train[:64]", "--config.data.eval_split=test[:32]"),
    *("--config.data.image_size=16", "--config.method.out=8"),
)
READERS = {"pretrain": pretrain.read, "evaluate": evaluate.read}
CONVMIXER = ("--config.encoder.width=8", "--config.encoder.depth=1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, with the page's files; their modules are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def shortened(arguments):
    if arguments[0] == "evaluate" and "--protocol" not in arguments:
        return [*arguments, "--protocol=knn"]
    if arguments[0] != "pretrain":
        return arguments
    encoder = "--config.encoder.name=convmixer:convmixer" in arguments
    return last_of_each([*arguments, *SHORT, *(CONVMIXER if encoder else ())])


def tiny(*, stem: str = "small"):
    del stem  # the configs set it
    return Tiny()


def test_the_commands_run(folder, in_process, capsys, monkeypatch):
    monkeypatch.setitem(ENCODERS, "resnet10", tiny)
    monkeypatch.setattr(training, "prepare_views", lambda _: lambda: None)
    names = [" ".join(command[:2]) for command in COMMANDS]
    assert [names.count(f"simclr-jax {x}") for x in ("pretrain", "evaluate")] == [3, 4]
    for program, *arguments in COMMANDS:
        if program == "python":
            runpy.run_path(arguments[0])
        elif "runs/satellite" in arguments:  # its parts are run with runs/convmixer
            READERS[arguments[0]](arguments[1:])
        else:
            main.run(shortened(arguments))
    output = capsys.readouterr().err
    assert "barlow_twins:barlow_twins, resnet10" in output
    assert "simclr, convmixer:convmixer" in output
    assert "satellite/train[:64]: 64 pictures" in output
    assert (folder / "convmixer.stablehlo").stat().st_size > 1000
    results = json.loads((folder / "runs/barlow/results.json").read_text())
    score = results["centroids:centroids"]["h"]
    assert score["settings"] == {"centred": False}
    assert 0 <= score["accuracy"] <= 1
    config = json.loads((folder / "runs/convmixer/config.json").read_text())
    assert config["augment"]["name"] == "satellite:views"
    assert config["augment"]["smallest"] == 0.3
    assert config["data"]["file"] == "satellite.npz"


def test_the_loss_of_barlow_twins(folder):
    """Equation 1 of arXiv:2103.03230, in float64, with loops over the matrix."""
    name = add_method("barlow_twins:barlow_twins:hidden=16,out=8")
    method, batch = small_method(name, probe=False), small_batch()
    state = method.init(jax.random.key(0), batch.views)
    loss, (_, y, metrics) = method.loss(
        state.params, state.for_loss(), batch, jax.random.key(1)
    )
    a, b = np.asarray(y.heads["projector"], np.float64)
    expected = np.zeros(2)  # on and off the diagonal
    for i in range(8):
        for j in range(8):
            x, w = a[:, i] - a[:, i].mean(), b[:, j] - b[:, j].mean()
            c = (x @ w) / np.sqrt((x @ x) * (w @ w))
            expected += [(1 - c) ** 2, 0] if i == j else [0, 0.0051 * c**2]
    assert float(loss) == pytest.approx(expected.sum(), rel=1e-3)
    assert float(metrics["invariance"]) == pytest.approx(expected[0], rel=1e-3)


def test_a_method_from_outside_can_be_tested_by_the_contract(folder):
    (text,) = re.findall(r"--method (\S+)", PAGE)
    name = add_method(text)
    assert schema.factory("method", name).__module__ == "barlow_twins"
    test_contract.test_shapes_and_dtypes_of_the_loss(name)
    test_contract.test_devices_send_each_other_embeddings_and_sums_and_no_picture(name)
    test_contract.test_any_mesh_gives_the_same_numbers(name, 8)
