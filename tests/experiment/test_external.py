"""Factories from outside the package: `package.module:factory` in a config."""

import json
import sys
from typing import Any

import jax
import numpy as np
import pytest

from simclr_jax import sharding
from simclr_jax.cli import common, evaluate, zoo
from simclr_jax.data.recipes import RECIPES
from simclr_jax.data.sources import open_source
from simclr_jax.experiment import build, config, external, init_from, schema
from simclr_jax.experiment.workdir import open_saved, saved_config
from tests.tools import begin_in

MODULE = """
from simclr_jax.data.sources import open_source
from simclr_jax.data.view import View
from simclr_jax.evaluate.knn import knn
from simclr_jax.methods.simclr import simclr
from simclr_jax.models.resnet import resnet10

def method(encoder, options, *, weight=0.5, out=8, total_steps, temperature=0.5):
    return simclr(encoder, options, out=out, hidden=total_steps)

def views(*, size, flip=0.25):
    return (View(size=size, flip=flip),) * 2

def pictures(*, split, data_dir, copies=1):
    return open_source("cifar10_mini", split=split)

number = 3
def in_order(encoder, options, weight=0.1): ...
def without_default(encoder, options, *, weight): ...
def of_none(encoder, options, *, weight=None): ...
def without_dtype(*, mean=(0.0,), std=(1.0,)): ...
def without_split(*, file=""): ...
def with_batch_size(*, split, batch_size=3): ...
def no_method(encoder, options): return simclr
def no_module(*, mean=(0.0,), std=(1.0,), dtype=""): return 3
def no_views(*, size): return View(size=size)
def no_source(*, split): return [split]
def no_score(train, train_label, test, test_label, classes): return 0.5
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """`mine_parts`, importable from the current directory, and forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine_parts.py").write_text(MODULE)
    yield tmp_path / "mine_parts.py"
    sys.modules.pop("mine_parts", None)


def changed(*changes):
    c = config.load("quickstart")
    config.override(c, changes)
    return c


def test_a_section_has_the_arguments_of_its_factory(module):
    c = changed(
        ("method.name", "mine_parts:method"),
        ("method.weight", "0.25"),
        ("augment.name", "mine_parts:views"),
        ("data.name", "mine_parts:pictures"),
        ("data.copies", "2"),
    )
    assert c.method.to_dict() == {
        "name": "mine_parts:method",
        "weight": 0.25,
        "out": 32,  # quickstart's
        "temperature": 0.2,
    }
    assert set(c.augment) == {"name", "flip", "operations"}
    assert c.data.copies == 2
    assert c.data.batch_size == 256
    assert [view.flip for view in build.recipe(c)] == [0.25, 0.25]
    method = build.build_method(c, images=5000, classes=0)
    views = [jax.ShapeDtypeStruct((2, 32, 32, 3), "uint8")] * 2
    state = jax.eval_shape(method.init, jax.random.key(0), views)
    total, _ = build.length(c, 5000)  # which the factory uses as the head's width
    assert state.params["projector"]["dense1"]["kernel"].shape == (128, total)
    source = build.open_data(c, "train[:10]+test[:5]")
    expected = open_source("cifar10_mini", split="train[:10]+test[:5]")
    last = np.array([12])
    assert (source.read(last)["image"] == expected.read(last)["image"]).all()
    config.override(c, [("data.name", "cifar10_mini")])
    assert "copies" not in c.data
    with pytest.raises(ValueError, match="Did you mean 'weight'"):
        config.override(c, [("method.weigth", "1.0")])
    with pytest.raises(ValueError, match=r"method\.weight must be"):
        config.override(c, [("method.weight", "x")])


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("method", "no_such_parts:f", "no module no_such_parts.*current directory"),
        ("method", "jax.no_such:f", r"no module jax\.no_such"),
        ("method", "mine_parts:methud", r"mine_parts\.py has no.*'method'"),
        ("method", "mine_parts:number", "is int, and must be a method's factory"),
        ("method", "mine_parts:in_order", r"\(encoder, options, \*, .*weight\)"),
        ("method", "mine_parts:without_default", "default for weight.*got none"),
        ("method", "mine_parts:of_none", "default for weight.*None"),
        ("method", "mine_parts:method.x", "unknown"),
        ("method", "simcrl", r"Did you mean 'simclr'.*package\.module:factory"),
        ("encoder", "mine_parts:without_dtype", "needs the argument dtype"),
        ("data", "mine_parts:without_split", "needs the argument split"),
        ("data", "mine_parts:with_batch_size", "cannot have the argument batch_size"),
        ("optim", "mine_parts:method", r"optim\.name: unknown"),
    ],
)
def test_names_that_cannot_be_used(module, key, name, message):
    with pytest.raises(ValueError, match=message) as error:
        changed((f"{key}.name", name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import numpy\nx = nothing", r"py, line 2: name 'nothing'.*\(NameError\)"),
        ("def f(:", r"py, line 1: .*\(SyntaxError\)"),
        ("\nimport no_such_library", r"py, line 2: .*no_such_library"),
        ("import numpy\nnumpy.zeros(-1)", r"py, line 2: negative dim.*\(ValueError\)"),
    ],
)
def test_an_error_inside_the_module_is_located(module, code, message):
    module.write_text(code)
    with pytest.raises(ValueError, match=rf"method\.name=mine_parts:f: .*{message}"):
        changed(("method.name", "mine_parts:f"))


@pytest.mark.parametrize(
    ("part", "name", "arguments", "message"),
    [
        ("method", "no_method", (None, None), r"must return a .*\.Method.*function"),
        ("encoder", "no_module", (), "Flax module with the number `width`.*int"),
        ("augment", "no_views", (), "must return a tuple of .*View"),
        ("data", "no_source", (), "list lacks name, classes"),
        ("protocol", "no_score", (None,) * 5, "accuracy.*got 0.5"),
    ],
)
def test_results_that_are_no_parts(module, part, name, arguments, message):
    values: dict[str, Any] = {"name": f"mine_parts:{name}"}
    if part != "protocol":
        values |= schema.section(part, values["name"]).to_dict()
    with pytest.raises(ValueError, match=message):
        schema.call(part, values, *arguments, size=8, split="train")


def test_an_assigned_name_lacks_the_arguments(module):
    c = config.load("quickstart")
    c.method.name = "mine_parts:method"
    with pytest.raises(ValueError, match="section method lacks weight"):
        build.build_method(c, images=5000, classes=0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a:b", True),
        ("a.b_1:c", True),
        ("cifar10:3.0.2", False),  # a version of a TFDS set
        ("gs://bucket/folder", False),
        ("gs:bucket", False),  # a misspelt bucket
        ("./a:b", False),
        ("a:b:c", False),
    ],
)
def test_external_names(name, expected):
    assert external.is_external(name) == expected


# Work directories.

NAMED = {"method": "mine_parts:method", "data": "mine_parts:pictures"}
ARGUMENTS = [f"--config.{part}.name={name}" for part, name in NAMED.items()]


@pytest.fixture
def workdir(module, tmp_path):
    """Of a run with factories whose module must not be imported from now on."""
    folder = tmp_path / "run"
    begin_in(folder, changed(*((f"{part}.name", name) for part, name in NAMED.items())))
    del sys.modules["mine_parts"]
    module.write_text("raise RuntimeError('was run')")
    return folder


def test_a_work_directory_does_not_choose_code(workdir, in_process):
    message = "If you trust it, add --config.method.name=mine_parts:method"
    for arguments in ([], ARGUMENTS[1:], ["--config.data.name=cifar10_mini"]):
        with pytest.raises(common.UsageError, match=message):
            evaluate.main([f"--workdir={workdir}", *arguments])
    with pytest.raises(common.UsageError, match=f"add {ARGUMENTS[1]}"):
        evaluate.main([f"--workdir={workdir}", ARGUMENTS[0]])
    export = ["export", f"--workdir={workdir}", "--to=numpy", f"--out={workdir}/x.npz"]
    with pytest.raises(common.UsageError, match=message):
        zoo.main(export)
    with pytest.raises(ValueError, match="allow_code=True"):
        open_saved(workdir, sharding.make_mesh())
    assert "mine_parts" not in sys.modules
    with pytest.raises(common.UsageError, match=r"line 1: was run"):
        evaluate.main([f"--workdir={workdir}", *ARGUMENTS])
    with pytest.raises(common.UsageError, match=r"line 1: was run"):
        zoo.main([*export, ARGUMENTS[0]])


def test_init_from_a_run_with_code(workdir, tmp_path):
    mesh = sharding.make_mesh(jax.devices()[:1])
    run: Any = None  # not reached

    def initialise(c):
        init_from.with_saved_arrays(c, run, mesh, str(tmp_path / "new"))

    c = changed(("init_from", str(workdir)))
    with pytest.raises(ValueError, match=r"parts:method.*--config\.init_code=true"):
        initialise(c)
    assert "mine_parts" not in sys.modules
    config.override(c, [("init_code", "true")])
    with pytest.raises(ValueError, match="was run"):
        initialise(c)


def test_the_data_of_a_run_may_be_another(module, workdir):
    """Without the code of the first; and the names of parts cannot change."""
    module.write_text(MODULE)
    changes = [("method.name", NAMED["method"]), ("data.name", "cifar10_mini")]
    c = saved_config(workdir, changes, sections=("method", "data"))
    assert c.data.to_dict().keys() == schema.DATA.keys() | {"name"}
    with pytest.raises(ValueError, match="was trained with method"):
        saved_config(workdir, [("method.name", "simclr")])
    assert saved_config(workdir, allow_code=True).data.copies == 1


def test_a_recipe_registered_by_a_config_needs_its_name(tmp_path, in_process):
    """evaluate runs no config, so it does not know the recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "registered", RECIPES["crop_flip"])
        begin_in(tmp_path, changed(("augment.name", "registered")))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(common.UsageError, match="unknown 'registered'"):
        evaluate.main([f"--workdir={tmp_path}"])


def test_the_protocol_has_a_section(module, workdir):
    module.write_text("def linear(a, b, c, d, classes, *, k=1): ...\nknn2 = linear\n")
    changes = [("method.name", NAMED["method"]), ("evaluate.knn2.k", "3")]
    c = saved_config(workdir, changes[1:], protocol="mine_parts:knn2", allow_code=True)
    assert c.evaluate.knn2.to_dict() == {"k": 3}
    with pytest.raises(ValueError, match=r"evaluate\.linear is another section"):
        saved_config(workdir, protocol="mine_parts:linear", allow_code=True)
    assert "knn2" not in json.loads((workdir / "config.json").read_text())["evaluate"]
