"""The content of an export's card."""

import json
from typing import Any

import numpy as np
import pytest

from simclr_jax import fingerprint
from simclr_jax.experiment.exporting import export_network
from simclr_jax.zoo.verification import verify
from tests.zoo.workdirs import outputs, random_workdir

SCORES = {
    "knn": {"h": {"accuracy": 0.424, "step": 7, "settings": {}, "data": "cifar10_mini"}}
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    workdir = random_workdir(folder / "run", "quickstart.py", encoder__channels="2")
    (workdir / "results.json").write_text(json.dumps(SCORES))
    export_network(str(workdir), "numpy", f"{folder}/x.npz", licence="MIT")
    return folder


@pytest.fixture(scope="module")
def card(exported):
    return json.loads((exported / "x.npz.card.json").read_text())


def test_its_code_draws_the_sample_images(card):
    variables: dict[str, Any] = {"np": np}
    exec(card["pictures"]["drawn by"], variables)
    images = variables["sample_images"](32)
    np.testing.assert_array_equal(images, verify.sample_images(32))
    assert (images.dtype, images.shape) == (np.uint8, (3, 32, 32, 3))
    assert len(np.unique(images[:, 3::9, 5::7].reshape(-1, 3), axis=0)) > 20


def test_its_sample_outputs_are_those_of_the_network(card, exported):
    h = outputs(exported / "run", verify.sample_images(32))["h"]
    assert np.abs(np.array(card["pictures"]["h"]) - h[:, :8]).max() < 1e-4


def test_fingerprints_are_those_of_the_files(card, exported):
    files = {
        "x.npz": exported / "x.npz",
        **{f"{x}.json": exported / f"run/{x}.json" for x in ("config", "data")},
        "results.json": exported / "run/results.json",
    }
    for name, file in files.items():
        assert card["fingerprints"][name] == fingerprint.of_file(file)
    assert card["scores"] == SCORES
    assert card["training"]["config"]["encoder"]["channels"] == 2
    assert (card["training"]["branch"], card["training"]["step"]) == ("online", 7)
    assert card["licence"] == "MIT"


def test_its_text_has_the_main_facts(exported):
    text = (exported / "x.npz.card.md").read_text()
    for fact in (
        *(
            "# resnet10: encoder, as numpy",
            'path = "x.npz"',
            "| knn | h | 7 | 42.4 % |",
        ),
        *("h [N, 16]", "simclr, step 7", "np.indices", "the same arrays"),
    ):
        assert fact in text


def test_a_folder_has_its_licence_and_fingerprints_of_every_file(tmp_path):
    workdir = random_workdir(
        tmp_path / "run", "quickstart.py", encoder__name="vit_mini"
    )
    x = tmp_path / "x"
    export_network(str(workdir), "huggingface", str(x), licence="MIT")
    readme = (x / "README.md").read_text()
    assert readme.startswith(
        '---\nlicense: other\nlicense_name: "MIT"\nlibrary_name: timm\n'
    )
    settings = json.loads((x / "config.json").read_text())
    assert settings["pretrained_cfg"]["license"] == "MIT"
    card = json.loads((x / "card.json").read_text())
    assert card["licence"] == "MIT"
    for name in ("config.json", "model.safetensors"):
        assert card["fingerprints"][f"x/{name}"] == fingerprint.of_file(x / name)
