"""The card says what anybody can check."""

import hashlib
import json

import numpy as np
import pytest

from simclr_jax.experiment import exporting
from simclr_jax.zoo.verification import verify
from tests.zoo.trained import left, said

SCORES = {
    "knn": {"h": {"accuracy": 0.424, "step": 7, "settings": {}, "data": "cifar10_mini"}}
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    workdir = left(folder / "run", "quickstart.py", encoder__channels="2")
    (workdir / "results.json").write_text(json.dumps(SCORES))
    exporting.take_out(str(workdir), "numpy", f"{folder}/x.npz", licence="MIT")
    return folder


@pytest.fixture(scope="module")
def card(exported):
    return json.loads((exported / "x.npz.card.json").read_text())


def test_its_pictures_can_be_drawn_from_it(card):
    known = {"np": np}
    exec(card["pictures"]["drawn by"], known)
    drawn = known["pictures"](32)
    np.testing.assert_array_equal(drawn, verify.pictures(32))
    assert (drawn.dtype, drawn.shape) == (np.uint8, (3, 32, 32, 3))
    assert len(np.unique(drawn[:, 3::9, 5::7].reshape(-1, 3), axis=0)) > 20


def test_its_numbers_are_those_of_the_network(card, exported):
    h = said(exported / "run", verify.pictures(32))["h"]
    assert np.abs(np.array(card["pictures"]["h"]) - h[:, :8]).max() < 1e-4


def test_fingerprints_are_of_the_files(card, exported):
    files = {
        "x.npz": exported / "x.npz",
        **{f"{x}.json": exported / f"run/{x}.json" for x in ("config", "data")},
        "results.json": exported / "run/results.json",
    }
    for name, file in files.items():
        sha = hashlib.sha256(file.read_bytes()).hexdigest()
        assert card["fingerprints"][name] == sha
    assert card["scores"] == SCORES
    assert card["training"]["config"]["encoder"]["channels"] == 2
    assert (card["training"]["branch"], card["training"]["step"]) == ("online", 7)
    assert card["licence"] == "MIT"


def test_its_text_can_be_read_alone(exported):
    text = (exported / "x.npz.card.md").read_text()
    for word in (
        *(
            "# resnet10: encoder, as numpy",
            'path = "x.npz"',
            "| knn | h | 7 | 42.4 % |",
        ),
        *("h [N, 16]", "simclr, step 7", "np.indices", "the same arrays"),
    ):
        assert word in text


def test_a_folder_states_its_licence_and_every_file(tmp_path):
    workdir = left(tmp_path / "run", "quickstart.py", encoder__name="vit_mini")
    x = tmp_path / "x"
    exporting.take_out(str(workdir), "huggingface", str(x), licence="MIT")
    top = (x / "README.md").read_text()
    assert top.startswith(
        '---\nlicense: other\nlicense_name: "MIT"\nlibrary_name: timm\n'
    )
    settings = json.loads((x / "config.json").read_text())
    assert settings["pretrained_cfg"]["license"] == "MIT"
    said = json.loads((x / "card.json").read_text())
    assert said["licence"] == "MIT"
    for name in ("config.json", "model.safetensors"):
        sha = hashlib.sha256((x / name).read_bytes()).hexdigest()
        assert said["fingerprints"][f"x/{name}"] == sha
