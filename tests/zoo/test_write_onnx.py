"""ONNX: ONNX Runtime computes the same as Flax, for every family of encoders."""

import importlib.util
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from simclr_jax.experiment import exporting
from simclr_jax.zoo.network import check_size
from simclr_jax.zoo.onnx import write as onnx_write
from simclr_jax.zoo.verification import verify
from tests.zoo.workdirs import outputs, random_workdir, relative_difference

TOLERANCE = 1e-5


def test_without_onnx_the_error_tells_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    network: Any = None
    with pytest.raises(ValueError, match="pip install onnx"):
        onnx_write.write_onnx(network, tmp_path / "x")


def test_networks_of_more_than_two_gibibytes_are_refused():
    arrays = {"params/x": np.broadcast_to(np.float32(0), (3 * 2**28,))}
    network: Any = SimpleNamespace(arrays=arrays)
    with pytest.raises(ValueError, match=r"onnx holds at most 2 GiB, .* has 3.0"):
        check_size(network, "onnx")


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("changes", "input"),
    [
        ({"encoder__channels": "4", "encoder__stem": "imagenet"}, "float"),
        ({"encoder__name": "resnet18", "encoder__padding": "same"}, "uint8"),
        pytest.param(
            {"encoder__name": "resnet50", "encoder__sk_ratio": "0.0625"},
            "uint8",
            marks=pytest.mark.long,
        ),
        ({"encoder__name": "vit_mini"}, "float"),
    ],
    ids=["resnet10", "resnet18", "selective", "vit"],
)
def test_any_batch_size(tmp_path, changes, input):
    import onnxruntime

    workdir = random_workdir(tmp_path / "run", "quickstart.py", **changes)
    result = exporting.export_network(
        str(workdir), "onnx", f"{tmp_path}/x.onnx", "encoder+head", input
    )
    session = onnxruntime.InferenceSession(f"{tmp_path}/x.onnx")
    images = np.concatenate([verify.sample_images(32)] * 2)[:5]
    x = images if input == "uint8" else images / np.float32(255)
    h, z = session.run(["h", "z"], {"images": x})
    expected = outputs(workdir, images)
    assert relative_difference(h, expected["h"]) < TOLERANCE
    assert relative_difference(z, expected["z"]) < TOLERANCE
    assert session.get_inputs()[0].shape == ["batch", 32, 32, 3]
    assert "onnxruntime" in result.verification


@pytest.mark.zoo
def test_without_onnx_runtime_the_reference_evaluator_runs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_write, "installed", lambda name: False)
    workdir = random_workdir(tmp_path / "run", "quickstart.py", encoder__channels="2")
    exporting.export_network(
        str(workdir), "onnx", f"{tmp_path}/x", "encoder+classifier"
    )
    card = json.loads((tmp_path / "x.card.json").read_text())
    assert set(card["verified"]["by"]) == {"onnx"}
    assert card["verified"]["batches"] == [3, 1, 3, 4]
    assert set(card["outputs"]) == {"h", "logits"}
