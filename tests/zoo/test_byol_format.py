"""BYOL's pickles: their arrays are read, and their code is not run."""

import base64
import collections
import json
import os
import pickle
import sys
import types
import zlib

import jax
import numpy as np
import pytest
import tensorflow as tf

from simclr_jax.tree import by_path
from simclr_jax.zoo.haiku import formats as haiku_formats
from simclr_jax.zoo.haiku import read as haiku_read
from tests.zoo.haiku_byol import BRANCHES, Forward, encoder, manifest, random, zeros
from tests.zoo.workdirs import (
    convert,
    imported,
    logits,
    outputs,
    relative_difference,
    saved_run,
)


@pytest.fixture
def foreign(monkeypatch):
    """Gives classes and functions the names of packages that are not installed."""

    def make(module, name, value):
        value.__module__, value.__qualname__ = module, name
        parts = module.split(".")
        for i in range(len(parts)):
            package = ".".join(parts[: i + 1])
            if package not in sys.modules:
                monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        monkeypatch.setattr(sys.modules[module], name, value, raising=False)
        return value

    return make


def write(path, trees, foreign):
    """A pickle of protocol 2, of the classes that BYOL's code and Haiku have."""

    class Mapping(dict):
        def __reduce__(self):
            return Mapping, (dict(self),)

    foreign("haiku._src.data_structures", "FlatMapping", Mapping)
    named = collections.namedtuple("_ByolExperimentState", (*BRANCHES, "opt_state"))
    foreign("byol.byol_experiment", "_ByolExperimentState", named)
    trees = {
        field: Mapping({module: Mapping(leaves) for module, leaves in tree.items()})
        for field, tree in trees.items()
    }
    content = {"experiment_state": named(**trees, opt_state=(np.zeros(3), None))}
    content |= {"step": np.int64(312_784), "rng": np.zeros(2, np.uint32)}
    path.write_bytes(pickle.dumps(content, protocol=2))


SHAPES = {
    "online_params": {"projector/linear": {"w": (2, 3), "b": (3,)}},
    "target_params": {"projector/linear": {"w": (2, 3), "b": (3,)}},
    "online_state": {"projector/batch_norm/~/mean_ema": {"average": (1, 3)}},
    "target_state": {},
}


def test_all_arrays_are_read(tmp_path, foreign):
    trees = random(SHAPES)
    write(tmp_path / "byol.pkl", trees, foreign)
    arrays = haiku_read.arrays(str(tmp_path / "byol.pkl"))
    assert len(arrays) == 5
    for branch in ("online", "target"):
        for leaf in "wb":
            name = f"{branch}_params/projector/linear/{leaf}"
            expected = trees[f"{branch}_params"]["projector/linear"][leaf]
            np.testing.assert_array_equal(arrays[name], expected)
    name = "online_state/projector/batch_norm/~/mean_ema"
    assert arrays[f"{name}/average"].shape == (1, 3)


# Written by dill 0.4.1, Haiku 0.0.17 and jax 0.10.2 as by BYOL's code: Haiku's
# mappings, a NumPy array and a jax array in BYOL's named tuple.
WRITTEN_BY_DILL = (
    "c-nPR=~mM~6b>!2L{K(y0TuVS1yNK~l!}5%rRv}k*EmgwCXlB2CX)mG!8!P&1>VAE(FfC+v<1!q<|KD!"
    "?%X@ya%MfX2F<W~G)-fxA>&?&1;UO56$~v-!Sj97R#CSd&ScUKXo(d>9QsU0${LV;_H?D}&ulj@B)w_F"
    ">Xv8a!1n@Xhm_M&gw`Y{C@(V6%pJ12cIxW5ZAq$8R!_BCovJEq?mGlJ6Y#vmHdU~9=tJMYVS+BhajCZ)"
    "n|8z<vp@xv%{+EQ%vq$*`c%x*F!X|=j_x%aNjwO7d5Jlq%tsX;%5l_{XFXPnJX=BUeuhxaX+=k$;RJCh"
    "teCb_=FBX`zVPZtHfK&bs6*@Mub1gTq0u;y)v7q=$hHD=BAo?lp<^(?%;UJ#CTB_33&wDwhLZ%RHZWvl"
    "Te7Kax`yG#eFaeoW!q^hCCeAbab|0C17`_FjBGl&Y7*yix!l}8Ig*go1kUHT+(BzdYmPtbQ!-}cmr)xP"
    "erIsOmADrPE(u)D30xsCqAIQuT$9svf*Z=Cn{Hy2>GnEHbhYmJUj0qCMh&;$O_bkqrJS*CIk(*rMQQk8"
    "I-2%(J%c-n(>TFhfqQGXpFEEhMwe}6117d2fd>Q+CBa7olX7}Y@I(=usv<-1R4u2gct-Ht?b{|ZqsYuA"
    "WU6@KHq4yBOJ(LOf;nlXyVu5SVq=fCci^?+IZq&cdn5n11n+V+5P^kXcyG1Jl1Q)+9}apvkwbmTb$o1)"
    "@h0#|k+BFq?@#7SUUKP>rR_})UloUM1mA1;L10^HndCtcKX)moN_oDa+-ZQt<0vRFMzFX)STRxFv0JgL"
    "&^&@Afn}-KCn&|{e~>b4as"
)


def test_a_pickle_written_by_dill(tmp_path):
    (tmp_path / "byol.pkl").write_bytes(
        zlib.decompress(base64.b85decode(WRITTEN_BY_DILL))
    )
    arrays = haiku_read.arrays(str(tmp_path / "byol.pkl"))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    names = [f"{branch}_params/projector/linear/w" for branch in ("online", "target")]
    assert list(arrays) == names
    np.testing.assert_array_equal(arrays[names[0]], x)
    np.testing.assert_array_equal(arrays[names[1]], x + 1)


class Evil:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Address:
    """An array whose bytes NumPy would use as the address of an object."""

    def __init__(self, way):
        self.way = way

    def __reduce__(self):
        address = id(self).to_bytes(8, "little")
        if self.way == "call":
            return np.ndarray, ((1,), "O", address)
        function, args, _ = np.zeros(1, object).__reduce__()
        if self.way == "disguise":
            return function, args, (1, (1,), Disguise(), False, [1])
        return function, args, (1, (1,), np.dtype("O"), False, address)


class Disguise:
    """An object of an allowed package whose state changes its class to a dtype."""

    def __reduce__(self):
        return jax.ShapeDtypeStruct, (), ({"code": "O"}, {"__class__": np.dtype})


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("call", "no checkpoint of BYOL"),  # nothing was called
        ("state", "not of numbers"),
        ("disguise", "not of numbers"),
    ],
)
def test_bytes_are_not_used_as_addresses(way, message, tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"x": Address(way)}, 2))
    with pytest.raises(ValueError, match=message):
        haiku_read.arrays(str(tmp_path / "x.pkl"))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, eval, getattr, np.load, __import__])
def test_a_malicious_pickle_is_refused_and_not_run(function, protocol, tmp_path):
    mark = tmp_path / "ran"
    bad = Evil(function, f"touch {mark}")
    content = {"experiment_state": [bad, 0, 0, 0, 0]}
    (tmp_path / "byol.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    message = rf"asks for \w[\w.]*\.{function.__name__}\. .*nothing was run"
    with pytest.raises(ValueError, match=message):
        haiku_formats.byol(str(tmp_path / "byol.pkl"))
    assert not mark.exists()


def test_a_foreign_class_runs_nothing(tmp_path, foreign):
    """A function of an allowed package is not called either."""
    mark = tmp_path / "ran"

    def run_it(path):
        open(path, "w").close()

    bad = Evil(foreign("jax.tools", "run_it", run_it), str(mark))
    content = {"experiment_state": [{"m": {"w": bad}}, {}, {}, {}, {}]}
    (tmp_path / "byol.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match="online_params/m/w"):
        haiku_formats.byol(str(tmp_path / "byol.pkl"))
    assert not mark.exists()


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "byol.pkl"
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        haiku_formats.byol(str(path))
    for content in (b"", b"junk", pickle.dumps({"a": np.zeros(99)}, 2)[:-40]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no complete pickle"):
            haiku_formats.byol(str(path))
    for content in ([1], {"experiment_state": [{}]}, {"params": {}}):
        path.write_bytes(pickle.dumps(content, 2))
        with pytest.raises(ValueError, match="no checkpoint of BYOL's pretraining"):
            haiku_formats.byol(str(path))
    path.write_bytes(pickle.dumps({"experiment_state": [{}, {}, {}, {}, {}]}, 2))
    with pytest.raises(ValueError, match=r"no BYOL network: .*one of res_net18"):
        haiku_formats.byol(str(path))


def read(trees, monkeypatch):
    """The checkpoint of a pickle that holds these trees."""
    monkeypatch.setattr(haiku_read, "arrays", lambda path: by_path(trees))
    return haiku_formats.byol("byol.pkl")


@pytest.mark.parametrize(
    ("depth", "width"), [(50, 1), pytest.param(200, 2, marks=pytest.mark.long)]
)
def test_both_published_networks_have_all_of_our_arrays(depth, width, monkeypatch):
    checkpoint = read(zeros(manifest(depth, width)), monkeypatch)
    assert dict(checkpoint.changes) == {
        "encoder.name": f"resnet{depth}",
        "encoder.width": str(width),
        "encoder.dtype": "float32",
        "method.hidden": "4096",
        "method.out": "256",
    }
    conversion = convert(checkpoint)
    assert not conversion.newly_initialised
    sizes = collections.Counter()
    for path, x in conversion.arrays.items():
        sizes["/".join(path.split("/")[:2])] += x.size
    if depth == 50:
        assert sizes["params/encoder"] == sizes["target_params/encoder"] == 23_508_032
        assert sizes["params/projector"] == 9_449_472
        assert sizes["params/predictor"] == 2_109_440
        assert sizes["params/probe"] == 2_049_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictor/linear_1": {}}, "Missing: online_params/predictor/linear_1/w"),
        ({"projector/linear_2": {"w": (1, 1)}}, "Not expected: online.*linear_2/w"),
        ({"classifier": {"w": (1000, 2048), "b": (1000,)}}, "other shapes: .*classif"),
    ],
)
def test_arrays_that_do_not_match_are_named(change, message, monkeypatch):
    trees = manifest()
    trees["online_params"] = trees["online_params"] | change
    checkpoint = read(zeros(trees), monkeypatch)
    with pytest.raises(ValueError, match=message):
        convert(checkpoint)


@pytest.mark.long
def test_both_branches_compute_the_same_as_in_tensorflow(tmp_path, foreign, in_process):
    trees = random(manifest())
    write(tmp_path / "byol.pkl", trees, foreign)
    size = {"data__image_size": "64"}
    workdir = imported(tmp_path, "byol", tmp_path / "byol.pkl", **size)
    assert json.loads((workdir / "import.json").read_text())["fresh"] == []
    encoder_config = saved_run(workdir).config.encoder
    assert encoder_config.mean == (0.485, 0.456, 0.406)
    x = np.random.default_rng(1).uniform(size=(2, 64, 64, 3)).astype(np.float32)
    pixels = (x - np.float32(encoder_config.mean)) / np.float32(encoder_config.std)
    for branch in ("online", "target"):
        net = Forward(trees[f"{branch}_params"], trees[f"{branch}_state"])
        h = tf.reduce_mean(encoder(net, tf.constant(pixels, tf.float32), 50, 1), [1, 2])
        z = net.head(h, "projector")
        y = outputs(workdir, x, branch)
        assert relative_difference(y["h"], h) < 1e-5
        assert relative_difference(y["z"], z) < 1e-5
        if branch == "online":
            assert relative_difference(y["p"], net.head(z, "predictor")) < 1e-5
            classifier = net.params["classifier"]
            expected = h @ classifier["w"] + classifier["b"]
            assert relative_difference(logits(workdir, y["h"]), expected) < 1e-5
