"""Exports of a work directory: the right arrays, or no file."""

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

from simclr_jax.experiment import exporting, schema
from simclr_jax.tree import by_path
from simclr_jax.zoo.native import arrays as native_arrays
from simclr_jax.zoo.native import stablehlo
from simclr_jax.zoo.verification import verify, verify_worker
from tests.zoo.workdirs import (
    outputs,
    random_workdir,
    relative_difference,
    saved_run,
)

TOLERANCE = 1e-5
IMAGES = verify.sample_images(32)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return random_workdir(
        tmp_path_factory.mktemp("run"), "quickstart.py", encoder__channels="4"
    )


@pytest.fixture(autouse=True, scope="module")
def read_once():
    """The tests export the same network in several formats."""
    cached = functools.cache(exporting.read_network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "read_network", cached)
        yield


def test_numpy_has_the_arrays_of_the_branch_to_keep_only(workdir, tmp_path):
    result = exporting.export_network(str(workdir), "numpy", f"{tmp_path}/x.npz")
    with np.load(tmp_path / "x.npz") as file:
        arrays = dict(file)
    saved = saved_run(workdir)
    params, stats = saved.run.method.kept(saved.state)
    expected = by_path({"params": {"encoder": params["encoder"]}})
    expected |= by_path({"batch_stats": {"encoder": stats["encoder"]}})
    assert arrays.keys() == expected.keys()
    assert all(np.array_equal(arrays[path], x) for path, x in expected.items())
    assert "the same arrays" in result.verification
    card = json.loads((tmp_path / "x.npz.card.json").read_text())
    assert card["licence"].startswith("not stated")
    assert {x.name for x in tmp_path.iterdir()} == {
        *("x.npz", "x.npz.card.json", "x.npz.card.md")
    }


@pytest.mark.long
def test_dino_exports_its_teacher(tmp_path):
    workdir = random_workdir(
        tmp_path / "run",
        "dino_quickstart.py",
        encoder__channels="2",
        method__prototypes="16",
    )
    network, _, run = exporting.read_network(
        str(workdir), "numpy", "encoder+head", "normalised"
    )
    kernel = network.arrays["params/projector/dense1/kernel"]
    assert run["training"]["branch"] == "target"
    with pytest.raises(ValueError, match="DINO's head"):
        exporting.export_network(str(workdir), "timm", f"{tmp_path}/x", "encoder+head")
    state = saved_run(workdir).state
    teacher = state.target_params["projector"]["dense1"]["kernel"]
    np.testing.assert_array_equal(kernel, teacher)
    assert not np.array_equal(kernel, state.params["projector"]["dense1"]["kernel"])


@pytest.mark.long
def test_stablehlo_runs_without_flax_for_any_batch_size(workdir, tmp_path):
    out = tmp_path / "x"
    result = exporting.export_network(
        str(workdir), "stablehlo", str(out), "encoder+head", "uint8"
    )
    program = export.deserialize(bytearray((out / "network.stablehlo").read_bytes()))
    assert set(program.platforms) == {"cpu", "tpu", "cuda"}
    weights = load_file(out / "weights.safetensors")
    images = np.concatenate([IMAGES, IMAGES[:2]])
    actual, expected = program.call(weights, images), outputs(workdir, images)
    assert relative_difference(actual["h"], expected["h"]) < TOLERANCE
    assert relative_difference(actual["z"], expected["z"]) < TOLERANCE
    card = json.loads((out / "card.json").read_text())
    assert card["verified"]["batches"] == [3, 1, 3, 4]
    assert "tpu" in " ".join(result.limits)


def test_an_export_is_in_float32_and_can_take_normalised_input(tmp_path):
    mean, std = np.array([(0.4, 0.5, 0.6), (0.2, 0.3, 0.25)], np.float32)
    workdir = random_workdir(
        tmp_path / "run",
        "quickstart.py",
        encoder__channels="2",
        encoder__dtype="bfloat16",
        encoder__mean="(0.4, 0.5, 0.6)",
        encoder__std="(0.2, 0.3, 0.25)",
    )
    network, expected, _ = exporting.read_network(
        str(workdir), "onnx", "encoder", "normalised"
    )
    h = expected[0]["h"]  # of IMAGES
    x = (IMAGES / np.float32(255) - mean) / std
    normalised = jax.jit(network.forward)(network.arrays, x)["h"]
    assert relative_difference(normalised, h) < TOLERANCE
    bfloat16 = outputs(workdir, IMAGES)["h"]
    assert 1e-4 < relative_difference(bfloat16, h) < 0.1


@pytest.mark.long
def test_orbax_has_flax_variables(workdir, tmp_path):
    exporting.export_network(str(workdir), "orbax", f"{tmp_path}/x")
    with ocp.StandardCheckpointer() as reader:
        variables = reader.restore(tmp_path / "x")
    c = saved_run(workdir).config
    encoder = {name: tree["encoder"] for name, tree in variables.items()}
    encode = functools.partial(schema.call("encoder", c.encoder).apply, train=False)
    h = jax.jit(encode)(encoder, IMAGES)
    assert relative_difference(h, outputs(workdir, IMAGES)["h"]) < TOLERANCE


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
    ("module", "name", "options", "flip", "message"),
    [
        (native_arrays, "numpy", (), _flip_numpy, "params/encoder/conv1/kernel"),
        (
            stablehlo,
            "stablehlo",
            ("encoder+head", "uint8"),
            _flip_stablehlo,
            "h differs by",
        ),
    ],
)
def test_a_file_that_fails_verification_is_deleted(
    workdir, tmp_path, monkeypatch, module, name, options, flip, message
):
    write = getattr(module, f"write_{name}")

    def corrupt(network, path):
        file = write(network, path)
        flip(path)
        return file

    monkeypatch.setattr(module, f"write_{name}", corrupt)
    with pytest.raises(ValueError, match=f"failed verification.*{message}"):
        exporting.export_network(str(workdir), name, f"{tmp_path}/x", *options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def loaded_by(monkeypatch):
    """Replaces the lines that load a NumPy file."""

    def replace(load):
        write = native_arrays.write_numpy
        monkeypatch.setattr(
            native_arrays,
            "write_numpy",
            lambda network, path: write(network, path)._replace(load=load),
        )

    return replace


def test_jax_cannot_be_imported_where_the_format_does_not_need_it(
    workdir, tmp_path, loaded_by
):
    loaded_by("import jax")
    with pytest.raises(ValueError, match=r"numpy cannot: .*jax"):
        exporting.export_network(str(workdir), "numpy", f"{tmp_path}/x")


def test_a_killed_runtime_is_reported(workdir, tmp_path, loaded_by):
    loaded_by(
        "import os, sys\nprint('I0000', file=sys.stderr)\nos.kill(os.getpid(), 9)\n"
    )
    with pytest.raises(ValueError, match=r"numpy cannot: .*ended by SIGKILL.*memory"):
        exporting.export_network(str(workdir), "numpy", f"{tmp_path}/x")


def test_the_version_of_a_module_whose_package_has_another_name():
    assert verify_worker.version("yaml") == importlib.metadata.version("PyYAML")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "torchvison"}, "Did you mean 'torchvision'"),
        ({"format": "numpy", "part": "head"}, "--part: unknown 'head'"),
        ({"format": "onnx", "input": "unit8"}, "Did you mean 'uint8'"),
        ({"format": "timm", "input": "float"}, "arrays only"),
        ({"format": "numpy", "out": "."}, "exists already"),
        ({"format": "numpy", "workdir": "nowhere"}, "no work directory"),
    ],
)
def test_wrong_options_are_errors(tmp_path, options, message):
    options = {"workdir": "nowhere", "out": f"{tmp_path}/x"} | options
    with pytest.raises(ValueError, match=message):
        exporting.export_network(**options)


def test_a_run_without_labels_has_no_classifier(tmp_path):
    workdir = random_workdir(
        tmp_path / "run",
        "quickstart.py",
        encoder__channels="2",
        probe__enabled="false",
    )
    with pytest.raises(ValueError, match="no classifier"):
        exporting.export_network(
            str(workdir), "numpy", f"{tmp_path}/x", "encoder+classifier"
        )


def test_exports_into_a_bucket(workdir, tmp_path, cloud):
    """They have the files of a local export, and existing ones are not replaced."""
    for format, name in (("numpy", "x.npz"), ("orbax", "x")):
        exporting.export_network(str(workdir), format, f"{tmp_path}/{format}/{name}")
        out = f"gs://bucket/{format}/{name}"
        assert exporting.export_network(str(workdir), format, out).path == out
        files = [p for p in (tmp_path / format).rglob("*") if p.is_file()]
        local = {str(p.relative_to(tmp_path)) for p in files if p.parent.name != "d"}
        remote = {n for n in cloud.objects("bucket") if n.startswith(f"{format}/")}
        # The names of Orbax's data files are random.
        assert {n for n in remote if "/d/" not in n} == local
        with pytest.raises(ValueError, match=f"{out} exists already"):
            exporting.export_network(str(workdir), format, out)
    local, objects = tmp_path / "numpy" / "x.npz", cloud.objects("bucket")
    remote = io.BytesIO(objects["numpy/x.npz"])
    with np.load(local) as a, np.load(remote) as b:
        assert all(np.array_equal(a[name], b[name]) for name in a)
