"""Encoders called from Python compute what evaluation computes."""

import itertools
import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import simclr_jax
from simclr_jax import sharding
from simclr_jax.data.errors import UnreadablePicture
from simclr_jax.data.pictures import picture_batches
from simclr_jax.data.sources import open_source
from simclr_jax.evaluate.features import embedder
from simclr_jax.experiment import extraction
from simclr_jax.experiment.attention_scores import check_attention
from simclr_jax.experiment.visualisation import spatial
from simclr_jax.experiment.workdir import open_saved
from tests.zoo import torch_arrays
from tests.zoo.workdirs import random_workdir

SIZE = 40  # above 32 pixels, pictures are cropped
BATCH = 8
SHAPES = [(40, 40), (61, 83), (90, 45), (38, 70), (33, 33), (120, 160)]


def smooth(height, width, seed):
    """A picture of smooth noise, uint8 [H, W, 3]."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height)))


@pytest.fixture(scope="module")
def pictures():
    """Arrays of several sizes."""
    return [smooth(*shape, seed=i) for i, shape in enumerate(SHAPES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pictures):
    """The pictures as PNG files, and a JPEG, a grey and a transparent one."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i}.png")
    Image.fromarray(smooth(70, 50, 6)).save(folder / "6.jpg")
    Image.fromarray(smooth(70, 50, 7)).convert("L").save(folder / "7.png")
    transparent = np.dstack([smooth(70, 50, 8), smooth(70, 50, 9)[..., 0]])
    Image.fromarray(transparent).save(folder / "8.png")
    return folder


@pytest.fixture(scope="module")
def paths(folder):
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return random_workdir(
        tmp_path_factory.mktemp("encoder") / "run",
        "quickstart.py",
        encoder__channels="2",
        data__image_size=str(SIZE),
        evaluate__batch_size=str(BATCH),
        encoder__mean="(0.4, 0.5, 0.6)",
        encoder__std="(0.2, 0.3, 0.25)",
    )


@pytest.fixture(scope="module")
def encoder(workdir):
    """On eight devices."""
    return simclr_jax.load(workdir)


@pytest.fixture(scope="module")
def h(encoder, paths):
    return encoder(paths, batch_size=BATCH)


def test_paths_give_the_features_of_evaluation(encoder, workdir, folder, paths):
    mesh = sharding.make_mesh()
    source = open_source(str(folder), split="train")
    with jax.set_mesh(mesh):
        saved = open_saved(workdir, mesh)
        expected = extraction.features(*saved[:3], source, mesh).values
    for name in ("h", "z"):
        actual = encoder(paths, feature=name, batch_size=BATCH)
        assert actual.dtype == np.float32
        np.testing.assert_array_equal(actual, expected[name])


def test_arrays_give_the_features_of_their_files(encoder, pictures, h):
    expected = h[: len(pictures)]
    np.testing.assert_allclose(encoder(pictures), expected, rtol=1e-5, atol=1e-5)
    for dtype in (np.float16, np.float32, np.float64):
        as_float = [(picture / 255).astype(dtype) for picture in pictures]
        np.testing.assert_array_equal(encoder(as_float), encoder(pictures))
    images = np.stack([smooth(70, 50, i) for i in range(33)])
    listed = encoder([*images])
    np.testing.assert_array_equal(encoder(images), listed)
    np.testing.assert_array_equal(encoder(jax.numpy.asarray(images)), listed)


def test_a_generator_and_one_path_are_accepted(encoder, paths, h):
    generated = encoder((str(path) for path in paths), batch_size=BATCH)
    np.testing.assert_array_equal(generated, h)
    one = encoder(str(paths[3]))
    np.testing.assert_allclose(one, h[3:4], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(encoder(np.array([*map(str, paths)])), encoder(paths))


def test_an_endless_generator_is_read_as_needed(pictures):
    batches = picture_batches(itertools.cycle(pictures), size=SIZE, batch_size=4)
    (view,) = next(batches).views
    assert view.shape == (4, SIZE, SIZE, 3)


def test_calls_with_other_numbers_of_pictures_do_not_compile(encoder):
    pictures = np.stack([smooth(50, 50, i) for i in range(21)])
    expected = encoder(pictures, batch_size=16)
    program: Any = embedder(encoder.mesh)
    programs = program._cache_size()
    for count in (9, 12, 15):
        h = encoder(pictures[:count], batch_size=16)
        np.testing.assert_allclose(h, expected[:count], rtol=1e-5, atol=1e-5)
    assert program._cache_size() == programs


@pytest.mark.long
@pytest.mark.usefixtures("in_process")
def test_one_device_gives_the_same_features(workdir, paths, h):
    encoder = simclr_jax.load(str(workdir))
    assert len(encoder.mesh.devices) == 1
    np.testing.assert_allclose(encoder(paths), h, rtol=1e-4, atol=1e-5)


def test_apply_is_the_encoder_as_a_function(encoder, pictures, h):
    images = encoder.prepare(pictures)
    assert (images.shape, images.dtype) == ((len(pictures), SIZE, SIZE, 3), np.uint8)
    apply = jax.jit(encoder.apply)
    for x in (images, images / np.float32(255)):
        y = apply(encoder.params, x)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, h[: len(images)], rtol=1e-4, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda p: encoder.apply(p, images).sum()))
    leaves = jax.tree.leaves(gradient(encoder.params))
    assert all(np.abs(x).max() > 0 for x in leaves)
    with pytest.raises(ValueError, match=r"apply takes images \[N, 40, 40, 3\]"):
        encoder.apply(encoder.params, images[:, :32, :32])


def test_what_an_encoder_is_called_with_and_made_of(encoder, workdir):
    assert encoder.size == SIZE
    assert (encoder.mean, encoder.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    assert encoder.config.encoder.channels == 2
    assert encoder.features == ("h", "z")
    assert str(encoder) == (
        f"Encoder(resnet10, 40 x 40 pixels -> h [N, 16], simclr after 7 steps, from "
        f"{workdir})"
    )


IMAGES = np.zeros((2, 40, 40, 3), np.float32)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "no pictures"),
        (np.zeros((0, 40, 40, 3)), "no pictures"),
        (IMAGES + 200, r"\[0, 1\].* 200 to 200"),
        (IMAGES - 1.5, r"\[0, 1\].* -1.5 to -1.5"),
        (IMAGES * np.nan, r"\[0, 1\].* nan"),
        (IMAGES.astype(np.int64), "int64"),
        (IMAGES.transpose(0, 3, 1, 2), r"\[2, 3, 40, 40\]"),
        (IMAGES[0], r"\[N, H, W, 3\].* \[40, 40, 3\]"),
        ([IMAGES[0], IMAGES[0, ..., 0]], r"number 1 is an array \[40, 40\]"),
        ([IMAGES[0], np.zeros((40, 40, 4))], r"number 1 is an array \[40, 40, 4\]"),
    ],
)
def test_pictures_that_would_be_misread_are_refused(encoder, pictures, message):
    with pytest.raises(ValueError, match=message):
        encoder(pictures)


def test_a_file_that_is_no_picture_is_named(encoder, paths, tmp_path):
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(UnreadablePicture, match=r"a\.png is not a readable picture"):
        encoder([*paths, tmp_path / "a.png"])
    with pytest.raises(UnreadablePicture, match=r"b\.png cannot be read"):
        encoder([tmp_path / "b.png"])


def test_unknown_features_and_batch_sizes_are_refused(encoder, paths):
    with pytest.raises(ValueError, match=r"feature: unknown 'p'.*h, head1, z"):
        encoder(paths, feature="p")
    with pytest.raises(ValueError, match="batch_size=0"):
        encoder(paths, batch_size=0)


def test_a_resnet_has_a_feature_map_and_no_tokens(encoder, paths):
    """Of more pictures than devices, at another size than the training's."""
    batches = picture_batches(paths, size=2 * SIZE, batch_size=len(paths))
    ((images,),) = (batch.views for batch in batches)
    maps = spatial(encoder, images)
    assert maps.features.shape == (len(paths), 5, 5, 16)
    h = encoder.module.apply(encoder.variables, images, train=False)
    np.testing.assert_allclose(maps.features.mean((1, 2)), h, rtol=1e-4, atol=1e-5)
    assert maps.attention is None
    with pytest.raises(ValueError, match=r"a vision transformer.*resnet10"):
        check_attention(encoder)
    assert encoder.layers == ("head1",)
    for name in ("cls", "patch"):
        with pytest.raises(ValueError, match=rf"unknown '{name}'.* h, head1, z\."):
            encoder(paths, feature=name)


def test_a_published_file_is_loaded_as_it_would_be_imported(tmp_path):
    """vit_mini has 32 pixels, so that nothing is cropped."""
    arrays = torch_arrays.vit_mini("")
    path = tmp_path / "vit.safetensors"
    safetensors.numpy.save_file(arrays, path)
    encoder = simclr_jax.load(path, format="timm")
    assert [*tmp_path.iterdir()] == [path]
    assert encoder.mean == (0.485, 0.456, 0.406)
    assert encoder.source == f"{path} (timm)"
    np.testing.assert_array_equal(
        encoder.params["block0"]["mlp"]["dense1"]["kernel"],
        arrays["blocks.0.mlp.fc1.weight"].T,
    )
    h = encoder([smooth(40, 50, 0)])
    assert h.shape == (1, 128)
    assert np.isfinite(h).all()
    with pytest.raises(ValueError, match="z is untrained"):
        encoder([smooth(40, 50, 0)], feature="z")


def test_load_names_what_is_wrong(tmp_path, workdir):
    (tmp_path / "a.pth").write_text("")
    with pytest.raises(ValueError, match=r"is a file.*format.*dino"):
        simclr_jax.load(tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"format: unknown 'dyno'.*'dino'"):
        simclr_jax.load(tmp_path / "a.pth", format="dyno")
    with pytest.raises(ValueError, match="no work directory"):
        simclr_jax.load(tmp_path)


def test_code_from_outside_must_be_allowed(tmp_path, workdir):
    shutil.copytree(workdir, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    content["encoder"]["name"] = "no_such_module_anywhere:encoder"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="allow_code=True"):
        simclr_jax.load(tmp_path / "run")
    with pytest.raises(ValueError, match="no_such_module_anywhere") as info:
        simclr_jax.load(tmp_path / "run", allow_code=True)
    assert "allow_code" not in str(info.value)
