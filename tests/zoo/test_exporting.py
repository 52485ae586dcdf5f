"""What a work directory has learnt, taken out: the right arrays, or nothing."""

import functools
import importlib.metadata
import io
import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax import export
from safetensors.numpy import load_file, save_file

from simclr_jax.experiment import config, exporting
from simclr_jax.tree import by_path
from simclr_jax.zoo.verification import verify, verify_worker
from tests.zoo.trained import close, left, newest, said

CHECKED = 1e-5
PICTURES = verify.pictures(32)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return left(tmp_path_factory.mktemp("run"), "quickstart.py", encoder__channels="4")


@pytest.fixture(autouse=True, scope="module")
def read_once():
    """One network is exported in several ways."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "read", functools.cache(exporting.read))
        yield


def test_numpy_holds_the_kept_branch_and_no_more(workdir, tmp_path):
    done = exporting.take_out(str(workdir), "numpy", f"{tmp_path}/x.npz")
    with np.load(tmp_path / "x.npz") as file:
        arrays = dict(file)
    _, job, state = newest(workdir)
    params, stats = job.method.kept(state)
    wanted = by_path({"params": {"encoder": params["encoder"]}})
    wanted |= by_path({"batch_stats": {"encoder": stats["encoder"]}})
    assert arrays.keys() == wanted.keys()
    assert all(np.array_equal(arrays[path], x) for path, x in wanted.items())
    assert "the same arrays" in done.checked
    card = json.loads((tmp_path / "x.npz.card.json").read_text())
    assert card["licence"].startswith("not stated")
    assert {x.name for x in tmp_path.iterdir()} == {
        *("x.npz", "x.npz.card.json", "x.npz.card.md")
    }


@pytest.mark.long
def test_dino_gives_its_teacher(tmp_path):
    workdir = left(
        tmp_path / "run",
        "dino_quickstart.py",
        encoder__channels="2",
        method__prototypes="16",
    )
    network, _, about = exporting.read(
        str(workdir), "numpy", "encoder+head", "normalised"
    )
    kernel = network.arrays["params/projector/dense1/kernel"]
    assert about["training"]["branch"] == "target"
    with pytest.raises(ValueError, match="ends on a sphere"):
        exporting.take_out(str(workdir), "timm", f"{tmp_path}/x", "encoder+head")
    _, _, state = newest(workdir)
    teacher = state.target_params["projector"]["dense1"]["kernel"]
    np.testing.assert_array_equal(kernel, teacher)
    assert not np.array_equal(kernel, state.params["projector"]["dense1"]["kernel"])


@pytest.mark.long
def test_stablehlo_runs_without_flax_on_any_number_of_pictures(workdir, tmp_path):
    out = tmp_path / "x"
    done = exporting.take_out(
        str(workdir), "stablehlo", str(out), "encoder+head", "uint8"
    )
    program = export.deserialize(bytearray((out / "network.stablehlo").read_bytes()))
    assert set(program.platforms) == {"cpu", "tpu", "cuda"}
    weights = load_file(out / "weights.safetensors")
    images = np.concatenate([PICTURES, PICTURES[:2]])
    outputs, wanted = program.call(weights, images), said(workdir, images)
    assert close(wanted["h"], outputs["h"]) < CHECKED
    assert close(wanted["z"], outputs["z"]) < CHECKED
    card = json.loads((out / "card.json").read_text())
    assert card["verified"]["batches"] == [3, 1, 3, 4]
    assert "tpu" in " ".join(done.limits)


def test_it_is_float32_whatever_the_run_computed_in_and_normalised_if_asked(tmp_path):
    mean, std = np.float32((0.4, 0.5, 0.6)), np.float32((0.2, 0.3, 0.25))
    workdir = left(
        tmp_path / "run",
        "quickstart.py",
        encoder__channels="2",
        encoder__dtype="bfloat16",
        encoder__mean="(0.4, 0.5, 0.6)",
        encoder__std="(0.2, 0.3, 0.25)",
    )
    network, expected, _ = exporting.read(str(workdir), "onnx", "encoder", "normalised")
    wanted = expected[0]["h"]  # of PICTURES
    x = (PICTURES / np.float32(255) - mean) / std
    assert close(wanted, jax.jit(network.forward)(network.arrays, x)["h"]) < CHECKED
    assert 1e-4 < close(wanted, said(workdir, PICTURES)["h"]) < 0.1  # in bfloat16


@pytest.mark.long
def test_orbax_holds_flax_variables(workdir, tmp_path):
    exporting.take_out(str(workdir), "orbax", f"{tmp_path}/x")
    with ocp.StandardCheckpointer() as reader:
        variables = reader.restore(tmp_path / "x")
    c, _, _ = newest(workdir)
    inside = {name: tree["encoder"] for name, tree in variables.items()}
    encode = functools.partial(config.build("encoder", c).apply, train=False)
    h = jax.jit(encode)(inside, PICTURES)
    assert close(said(workdir, PICTURES)["h"], h) < CHECKED


def _flip_numpy(path):
    with np.load(path) as file:
        arrays = dict(file)
    arrays["params/encoder/conv1/kernel"] *= -1
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _flip_stablehlo(path):
    weights = load_file(path / "weights.safetensors")
    weights["params/encoder/conv1/kernel"] *= np.float32(1.001)
    save_file(weights, path / "weights.safetensors")


@pytest.mark.parametrize(
    ("to", "flip", "word"),
    [
        (("numpy",), _flip_numpy, "params/encoder/conv1/kernel"),
        (("stablehlo", "encoder+head", "uint8"), _flip_stablehlo, "h differs by"),
    ],
)
def test_what_does_not_pass_is_deleted(workdir, tmp_path, monkeypatch, to, flip, word):
    to, *words = to
    write = exporting.WRITERS[to]

    def corrupt(network, path):
        written = write(network, path)
        flip(path)
        return written

    monkeypatch.setitem(exporting.WRITERS, to, corrupt)
    with pytest.raises(ValueError, match=f"deleted again.*{word}"):
        exporting.take_out(str(workdir), to, f"{tmp_path}/x", *words)
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_without_jax_has_none(workdir, tmp_path, monkeypatch):
    write = exporting.WRITERS["numpy"]
    monkeypatch.setitem(
        exporting.WRITERS,
        "numpy",
        lambda *told: write(*told)._replace(load="import jax"),
    )
    with pytest.raises(ValueError, match=r"numpy cannot: .*jax"):
        exporting.take_out(str(workdir), "numpy", f"{tmp_path}/x")


def test_a_runtime_that_is_killed_is_said_to_be(workdir, tmp_path, monkeypatch):
    write = exporting.WRITERS["numpy"]
    load = "import os, sys\nprint('I0000', file=sys.stderr)\nos.kill(os.getpid(), 9)\n"
    monkeypatch.setitem(
        exporting.WRITERS, "numpy", lambda *told: write(*told)._replace(load=load)
    )
    with pytest.raises(ValueError, match=r"numpy cannot: .*ended by SIGKILL.*memory"):
        exporting.take_out(str(workdir), "numpy", f"{tmp_path}/x")


def test_a_module_may_come_with_a_package_of_another_name():
    assert verify_worker.version("yaml") == importlib.metadata.version("PyYAML")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"to": "torchvison"}, "Did you mean 'torchvision'"),
        ({"to": "numpy", "part": "head"}, "--part: unknown 'head'"),
        ({"to": "onnx", "input": "unit8"}, "Did you mean 'uint8'"),
        ({"to": "timm", "input": "float"}, "arrays alone"),
        ({"to": "numpy", "out": "."}, "there already"),
        ({"to": "numpy", "workdir": "nowhere"}, "no work directory"),
    ],
)
def test_what_cannot_be_is_said_first(tmp_path, words, said):
    words = {"workdir": "nowhere", "out": f"{tmp_path}/x"} | words
    with pytest.raises(ValueError, match=said):
        exporting.take_out(**words)


def test_a_run_without_labels_has_no_classifier(tmp_path):
    workdir = left(
        tmp_path / "run",
        "quickstart.py",
        encoder__channels="2",
        probe__enabled="false",
    )
    with pytest.raises(ValueError, match="no classifier"):
        exporting.take_out(str(workdir), "numpy", f"{tmp_path}/x", "encoder+classifier")


def test_into_a_bucket(workdir, tmp_path, cloud):
    """The same files as on a disk, and nothing over what is there."""
    for to, name in (("numpy", "x.npz"), ("orbax", "x")):
        exporting.take_out(str(workdir), to, f"{tmp_path}/{to}/{name}")
        done = exporting.take_out(str(workdir), to, f"gs://bucket/{to}/{name}")
        assert done.path == f"gs://bucket/{to}/{name}"
        files = [p for p in (tmp_path / to).rglob("*") if p.is_file()]
        here = {str(p.relative_to(tmp_path)) for p in files if p.parent.name != "d"}
        far = {n for n in cloud.objects("bucket") if n.startswith(f"{to}/")}
        assert {n for n in far if "/d/" not in n} == here  # Orbax's data have no names
        with pytest.raises(
            ValueError, match=f"gs://bucket/{to}/{name} is there already"
        ):
            exporting.take_out(str(workdir), to, f"gs://bucket/{to}/{name}")
    here, far = (tmp_path / "numpy" / "x.npz").read_bytes(), cloud.objects("bucket")
    with np.load(io.BytesIO(here)) as a, np.load(io.BytesIO(far["numpy/x.npz"])) as b:
        assert all(np.array_equal(a[name], b[name]) for name in a)
