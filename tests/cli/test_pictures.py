"""The commands embed, visualize and evaluate --protocol attention on pictures."""

import json

import numpy as np
import pytest
from PIL import Image

import simclr_jax
from simclr_jax.cli import common, embed, evaluate, runtime, visualize
from simclr_jax.experiment.visualisation import spatial
from tests.zoo.workdirs import random_workdir

VIT = "tests.tools:tiny_vit"  # patches of 8 x 8, 2 heads
WITH_VIT = f"--config.encoder.name={VIT}"
NAMES = ["a/0.png", "a/1.png", "a/2.png", "b/3.png", "b/4.png"]


def smooth(seed, width=40, height=48):
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((width, height))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes; the second and the last picture are the same."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        smooth(int(path.stem) % 3).save(path)
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a run of a vision transformer."""
    folder = tmp_path_factory.mktemp("vit") / "run"
    return random_workdir(folder, "quickstart.py", encoder__name=VIT)


def size(path):
    """The width and the height of a picture."""
    with Image.open(path) as image:
        return image.size


def refused(main, arguments, capsys):
    """The message of a command that ends with exit code 2."""
    with pytest.raises((SystemExit, common.UsageError)) as error:
        main([str(x) for x in arguments])
    code = getattr(error.value, "code", None) or runtime.report(error.value)
    assert code == common.USAGE
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.usefixtures("in_process")
def test_embed(workdir, folder, tmp_path, capsys):
    options = ["--features=patch", "--neighbours=2", "--duplicates=0.99999", WITH_VIT]
    out = tmp_path / "new" / "e.npz"
    paths = [f"--workdir={workdir}", f"--images={folder}", f"--out={out}"]
    embed.main([*paths, *options])
    text = capsys.readouterr().out
    assert "patch [5, 8]" in text
    assert f"  {folder}/a/0.png, {folder}/b/3.png\n" in text
    files = [folder / name for name in NAMES]
    encoder = simclr_jax.load(workdir, allow_code=True)
    with np.load(out) as table:
        assert table["path"].tolist() == [*map(str, files)]
        assert table["label"].tolist() == [0, 0, 0, 1, 1]
        assert table["class_names"].tolist() == ["a", "b"]
        assert table["neighbours"][:2, 0].tolist() == [3, 4]
        np.testing.assert_allclose(table["similarity"][:2, 0], 1, atol=1e-5)
        assert table["group"].tolist()[:2] == table["group"].tolist()[3:] == [0, 1]
        values = table["patch"]
    np.testing.assert_array_equal(values, encoder(files, feature="patch"))
    mean = spatial(encoder, encoder.prepare(files)).features.mean((1, 2))
    np.testing.assert_allclose(values, mean, rtol=1e-4, atol=1e-5)
    for name in ("e.neighbours.png", "e.duplicates.png"):
        assert size(out.parent / name)[0] > 300
    out.unlink()  # a gallery is not overwritten either
    assert "neighbours.png exists" in refused(embed.main, [*paths, *options], capsys)
    assert not out.exists()


@pytest.mark.usefixtures("in_process")
def test_embed_a_part_of_a_set(workdir, tmp_path):
    out = tmp_path / "e.csv"
    arguments = [f"--workdir={workdir}", f"--out={out}", WITH_VIT, "--features=z"]
    embed.main([*arguments, "--images=cifar10_mini", "--split=test[:3]"])
    head, *rows = out.read_text().splitlines()
    assert head.startswith("index,label,class,z0,")
    assert [row.split(",")[0] for row in rows] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--out={tmp}/e.txt", "'.txt'. There are: .csv, .npz, .parquet"),
        ("--out={tmp}/there.npz", "there.npz exists"),
        ("--images={tmp}/typo", "There is no folder"),
        ("--images={tmp}", "has no pictures"),
        ("--images={tmp}/bad", "x.png is not a readable picture"),
        ("--features=cls2", "unknown 'cls2'. Did you mean 'cls'? There are: cls, "),
        ("--neighbours=5", "at most 4"),
        ("--duplicates=1.5", "a cosine below 1"),
        ("--config.optim.lr=1", "belongs to the training"),
    ],
)
@pytest.mark.usefixtures("in_process")
def test_embed_refuses(workdir, folder, tmp_path, capsys, change, message):
    (tmp_path / "there.npz").write_text("")
    (tmp_path / "bad").mkdir()
    if "bad" in change:
        (tmp_path / "bad" / "x.png").write_text("text")
    before = sorted(tmp_path.rglob("*"))
    options = {"workdir": workdir, "images": folder, "out": tmp_path / "e.npz"}
    key, _, value = change.removeprefix("--").partition("=")
    options[key] = value.format(tmp=tmp_path)
    arguments = [WITH_VIT, *(f"--{name}={x}" for name, x in options.items())]
    assert message in refused(embed.main, arguments, capsys)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("in_process")
def test_visualize(workdir, folder, tmp_path, capsys):
    """At another size than the training's."""
    arguments = [f"--workdir={workdir}", f"--images={folder}", WITH_VIT, "--size=48"]
    visualize.main([*arguments, "--count=3", f"--out={tmp_path}/maps"])
    assert "3 of 5 pictures" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["a__0.png.png", "a__2.png.png", "b__4.png.png", "overview.png"]
    width, _ = size(tmp_path / "maps" / "a__0.png.png")
    assert 5 * 150 < width < 6 * 190  # the picture, the mean, 2 heads and the features
    refusals = {
        f"--out={tmp_path}/maps": "maps exists",
        "--size=30": "must be multiples of 8",
        "--size=-4": "must be 0 or more",
    }
    for change, message in refusals.items():
        out = [] if "--out" in change else [f"--out={tmp_path}/other"]
        options = [*arguments[:3], change, *out]
        assert message in refused(visualize.main, options, capsys)
    assert not (tmp_path / "other").exists()


@pytest.fixture
def masked(tmp_path):
    """Two pictures, each with an object on one half; a third has none."""
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for i in range(3):
        smooth(i).save(tmp_path / "set" / "images" / f"{i}.png")
        mask = np.zeros((48, 40), np.uint8)
        mask[: 24 * (i < 2), :] = 5
        Image.fromarray(mask).save(tmp_path / "set" / "masks" / f"{i}.png")
    return tmp_path / "set"


@pytest.mark.usefixtures("in_process")
def test_evaluate_by_attention(workdir, masked, capsys):
    options = ["--protocol=attention", f"--config.data.name={masked}"]
    vit = [f"--workdir={workdir}", WITH_VIT]
    evaluate.main([*vit, *options])
    text = capsys.readouterr().out
    assert "the best head for each of 2 objects of 2 pictures" in text
    result = json.loads((workdir / "results.json").read_text())["attention"]["cls"]
    assert (result["count"], result["left_out"], result["size"]) == (2, 1, 64)
    assert len(result["heads"]) == 2
    assert 0 < max(result["heads"]) <= result["accuracy"] < 1
    assert result["settings"]["mass"] == 0.6
    assert result["fingerprint"]["weights"]
    options[1] = "--config.data.name=cifar10_mini"
    message = refused(evaluate.main, [*vit, *options], capsys)
    assert "cifar10_mini has no masks" in message
    message = refused(evaluate.main, [*vit, *options, "--features=h"], capsys)
    assert "no --features" in message
