"""The commands of the zoo and their error messages."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from simclr_jax.cli import common, zoo
from simclr_jax.zoo import published
from tests.zoo.test_importing import CHANGES, vit_mini

pytestmark = pytest.mark.usefixtures("in_process")


def test_an_imported_network_can_be_exported(tmp_path, capsys):
    save_file(vit_mini(), tmp_path / "a.safetensors")
    args = ["--from", "timm", "--source", f"{tmp_path}/a.safetensors"]
    args += [f"--config.{key}={text}" for key, text in CHANGES]
    zoo.main(["import", *args, "--workdir", f"{tmp_path}/run"])
    output = capsys.readouterr().out
    assert "a.safetensors (timm): 56 arrays, with the config simclr_imag" in output
    assert "randomly initialised: model_state/online/projector/" in output
    args = ["--workdir", f"{tmp_path}/run", "--to", "numpy", "--out", f"{tmp_path}/x"]
    zoo.main(["export", *args])
    assert "encoder as numpy" in capsys.readouterr().out
    assert "| others: a.safetensors (timm" in (tmp_path / "x.card.md").read_text()
    with np.load(tmp_path / "x") as file:
        positions = file["params/encoder/positions"]
    np.testing.assert_array_equal(positions, vit_mini()["pos_embed"])


def test_the_list_has_a_line_for_each_checkpoint(capsys):
    zoo.main(["list"])
    assert len(capsys.readouterr().out.splitlines()) > len(published.checkpoints())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["exprot"], "Did you mean 'export'"),
        (["import", "--from=tim", "--source=a", "--workdir=b"], "Did you mean 'timm'"),
        (["export", "--workdir=a", "--to=onx", "--out=b"], "Did you mean 'onnx'"),
        (
            ["export", "--workdir=a", "--to=onnx", "--out=b", "--part=encode"],
            "Did you mean 'encoder'",
        ),
    ],
)
def test_misspelt_names(args, message):
    with pytest.raises(common.UsageError, match=message):
        zoo.main(args)


def test_an_export_cannot_change_the_config(capsys):
    with pytest.raises(SystemExit):
        zoo.main(["export", "--workdir=a", "--to=onnx", "--out=b", "--config.seed=1"])
    assert "no --config.KEY=VALUE" in capsys.readouterr().err
