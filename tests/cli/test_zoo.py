"""The zoo's door: what it takes, and what it says of a mistake."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from simclr_jax.cli import common, zoo
from simclr_jax.zoo.published import PUBLISHED
from tests.zoo.test_importing import CHANGES, vit_mini

pytestmark = pytest.mark.usefixtures("in_process")


def test_what_is_brought_in_can_be_taken_out(tmp_path, capsys):
    """Arrays by timm's names, and back by our own."""
    save_file(vit_mini(), tmp_path / "a.safetensors")
    words = ["--from", "timm", "--source", f"{tmp_path}/a.safetensors"]
    words += [f"--config.{key}={text}" for key, text in CHANGES]
    zoo.main(["import", *words, "--workdir", f"{tmp_path}/run"])
    said = capsys.readouterr().out
    assert "a.safetensors (timm): 56 arrays, by simclr_imagenet.py" in said
    assert "fresh here: " in said
    words = ["--workdir", f"{tmp_path}/run", "--to", "numpy", "--out", f"{tmp_path}/x"]
    zoo.main(["export", *words])
    assert "encoder as numpy" in capsys.readouterr().out
    assert "| others: a.safetensors (timm" in (tmp_path / "x.card.md").read_text()
    with np.load(tmp_path / "x") as file:
        positions = file["params/encoder/positions"]
    np.testing.assert_array_equal(positions, vit_mini()["pos_embed"])


def test_the_list(capsys):
    zoo.main(["list"])
    assert len(capsys.readouterr().out.splitlines()) > len(PUBLISHED)


@pytest.mark.parametrize(
    ("words", "message"),
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
def test_mistakes(words, message):
    with pytest.raises(common.UsageError, match=message):
        zoo.main(words)


def test_an_export_takes_no_settings(capsys):
    with pytest.raises(SystemExit):
        zoo.main(["export", "--workdir=a", "--to=onnx", "--out=b", "--config.seed=1"])
    assert "no --config.KEY=VALUE" in capsys.readouterr().err
