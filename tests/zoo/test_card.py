"""The content of an export's card."""

import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

import simclr_jax
from simclr_jax import fingerprint
from simclr_jax.data import resizing
from simclr_jax.experiment.exporting import export_network
from simclr_jax.zoo import card as card_module
from simclr_jax.zoo import catalog, preprocessing
from simclr_jax.zoo.network import ExportedNetwork
from simclr_jax.zoo.verification import verify
from tests.zoo.workdirs import outputs, random_workdir, relative_difference

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


@pytest.mark.parametrize("size", [32, 40, 96])
def test_its_preprocessing_is_that_of_evaluation(size):
    rng = np.random.default_rng(0)
    for shape in ((size, size), (61, 83), (38, 70), (3, 5), (200, 90), (1, 1)):
        image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
        expected = resizing.centre(image, size).numpy().astype(int)
        variables: dict[str, Any] = {"np": np}
        exec(preprocessing.described(size)["code"], variables)
        difference = np.abs(variables["preprocess"](image, size) - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3


def test_its_code_computes_the_features_of_the_encoder(tmp_path):
    """From picture files, with the exported program."""
    workdir = random_workdir(
        tmp_path / "run",
        "quickstart.py",
        encoder__channels="2",
        data__image_size="40",
        encoder__mean="(0.4, 0.5, 0.6)",
    )
    rng = np.random.default_rng(0)
    files = [str(tmp_path / f"{i}.png") for i in range(3)]
    for i, file in enumerate(files):
        pixels = rng.integers(0, 256, (5, 5 + i, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((50 + 10 * i, 70)).save(file)
    out = tmp_path / "exported"
    export_network(str(workdir), "stablehlo", str(out), input="normalised")
    text = (out / "card.md").read_text().replace('"exported"', repr(str(out)))
    load, use, _ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    variables: dict[str, Any] = {}
    exec(load + use.replace('["picture.jpg"]', repr(files)), variables)
    h = simclr_jax.load(workdir)(files)
    assert relative_difference(variables["outputs"]["h"], h) < 1e-3


@pytest.mark.parametrize("input", catalog.INPUTS)
def test_its_code_scales_the_images_as_the_network_expects(input):
    images, mean, std = verify.sample_images(8), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    network = ExportedNetwork(
        {}, lambda *_: {}, None, "", mean, std, 8, "encoder", input
    )
    names = {"images": images, "np": np, "mean": [*mean], "std": [*std]}
    x = eval(card_module.SCALED[input], names)
    expected = network.preprocess(images)
    assert x.dtype == expected.dtype
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_it_describes_the_preprocessing(card, exported):
    steps = card["preprocessing"]
    assert (steps["central crop"], steps["resize"]) == (None, [32, 32])
    assert preprocessing.described(224)["central crop"] == 0.875
    text = (exported / "x.npz.card.md").read_text()
    assert "whole, then resized to 32 x 32 pixels" in text
    assert "def preprocess(image" in text
    assert "network(x)" not in text  # a file of arrays
