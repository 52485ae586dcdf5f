"""BYOL's pickles: what they hold arrives, and what they ask for is not done."""

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

from simclr_jax import sharding
from simclr_jax.experiment import build, config, importing
from simclr_jax.train.checkpoint import restore_latest
from simclr_jax.tree import by_path
from simclr_jax.zoo.haiku import read as haiku_read
from simclr_jax.zoo.tensorflow import formats as tf_formats
from tests.zoo.haiku_byol import BRANCHES, Forward, alike, drawn, encoder, manifest
from tests.zoo.taking import difference, fill

WHO = ("online", "target")


@pytest.fixture
def foreign(monkeypatch):
    """Lets a pickle name things as parts of packages that are not there."""

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


SMALL = {
    "online_params": {"projector/linear": {"w": (2, 3), "b": (3,)}},
    "target_params": {"projector/linear": {"w": (2, 3), "b": (3,)}},
    "online_state": {"projector/batch_norm/~/mean_ema": {"average": (1, 3)}},
    "target_state": {},
}


def test_all_arrays_come_out(tmp_path, foreign):
    trees = drawn(SMALL)
    write(tmp_path / "byol.pkl", trees, foreign)
    got = haiku_read.arrays(str(tmp_path / "byol.pkl"))
    assert len(got) == 5
    for who in ("online", "target"):
        for leaf in "wb":
            name = f"{who}_params/projector/linear/{leaf}"
            wanted = trees[f"{who}_params"]["projector/linear"][leaf]
            np.testing.assert_array_equal(got[name], wanted)
    name = "online_state/projector/batch_norm/~/mean_ema"
    assert got[f"{name}/average"].shape == (1, 3)


# By dill 0.4.1, Haiku 0.0.17 and Jax 0.10.2, where BYOL's own code makes such files:
# Haiku's mappings, a NumPy array and a Jax one in BYOL's named tuple.
REAL = (
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


def test_a_pickle_that_dill_wrote(tmp_path):
    (tmp_path / "byol.pkl").write_bytes(zlib.decompress(base64.b85decode(REAL)))
    got = haiku_read.arrays(str(tmp_path / "byol.pkl"))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert set(got) == {f"{who}_params/projector/linear/w" for who in WHO}
    np.testing.assert_array_equal(got["online_params/projector/linear/w"], x)
    np.testing.assert_array_equal(got["target_params/projector/linear/w"], x + 1)


class Evil:
    def __init__(self, function, *said):
        self.function, self.said = function, said

    def __reduce__(self):
        return self.function, self.said


class Address:
    """An array whose bytes would be taken for the address of an object."""

    def __init__(self, way):
        self.way = way

    def __reduce__(self):
        address = id(self).to_bytes(8, "little")
        if self.way == "call":
            return np.ndarray, ((1,), "O", address)
        made, about, _ = np.zeros(1, object).__reduce__()
        if self.way == "disguise":
            return made, about, (1, (1,), Disguise(), False, [1])
        return made, about, (1, (1,), np.dtype("O"), False, address)


class Disguise:
    """An object of a package that is let through, which turns into a type of arrays."""

    def __reduce__(self):
        return jax.ShapeDtypeStruct, (), ({"said": "O"}, {"__class__": np.dtype})


@pytest.mark.parametrize(
    ("way", "word"),
    [
        ("call", "no checkpoint of BYOL"),  # nothing was called
        ("state", "no numbers"),
        ("disguise", "no numbers"),
    ],
)
def test_bytes_are_not_taken_for_addresses(way, word, tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"x": Address(way)}, 2))
    with pytest.raises(ValueError, match=word):
        haiku_read.arrays(str(tmp_path / "x.pkl"))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, eval, getattr, np.load, __import__])
def test_a_malicious_pickle_is_refused_and_not_run(function, protocol, tmp_path):
    mark = tmp_path / "ran"
    bad = Evil(function, f"touch {mark}")
    content = {"experiment_state": [bad, 0, 0, 0, 0]}
    (tmp_path / "byol.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    said = rf"asks for \w[\w.]*\.{function.__name__}\. .*nothing was run"
    with pytest.raises(ValueError, match=said):
        tf_formats.byol(str(tmp_path / "byol.pkl"))
    assert not mark.exists()


def test_a_foreign_class_runs_nothing(tmp_path, foreign):
    """Even a function of a package that is let through is only kept in mind."""
    mark = tmp_path / "ran"

    def run_it(where):
        open(where, "w").close()

    bad = Evil(foreign("jax.tools", "run_it", run_it), str(mark))
    content = {"experiment_state": [{"m": {"w": bad}}, {}, {}, {}, {}]}
    (tmp_path / "byol.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match="online_params/m/w"):
        tf_formats.byol(str(tmp_path / "byol.pkl"))
    assert not mark.exists()


def test_what_is_no_checkpoint_of_byol(tmp_path):
    path = tmp_path / "byol.pkl"
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        tf_formats.byol(str(path))
    for content in (b"", b"junk", pickle.dumps({"a": np.zeros(99)}, 2)[:-40]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no whole pickle"):
            tf_formats.byol(str(path))
    for content in ([1], {"experiment_state": [{}]}, {"params": {}}):
        path.write_bytes(pickle.dumps(content, 2))
        with pytest.raises(ValueError, match="no checkpoint of BYOL's pretraining"):
            tf_formats.byol(str(path))
    path.write_bytes(pickle.dumps({"experiment_state": [{}, {}, {}, {}, {}]}, 2))
    with pytest.raises(ValueError, match=r"no BYOL network: .*one of res_net18"):
        tf_formats.byol(str(path))


def found_in(trees, monkeypatch):
    """What is said of a pickle that holds these trees."""
    monkeypatch.setattr(haiku_read, "arrays", lambda path: by_path(trees))
    return tf_formats.byol("byol.pkl")


@pytest.mark.parametrize(
    ("depth", "width"), [(50, 1), pytest.param(200, 2, marks=pytest.mark.long)]
)
def test_both_published_networks_fill_ours(depth, width, monkeypatch):
    found = found_in(alike(manifest(depth, width)), monkeypatch)
    assert dict(found.changes) == {
        "encoder.name": f"resnet{depth}",
        "encoder.width": str(width),
        "encoder.dtype": "float32",
        "method.hidden": "4096",
        "method.out": "256",
    }
    got, fresh = fill(found)
    assert not fresh
    sizes = collections.Counter()
    for path, x in got.items():
        sizes["/".join(path.split("/")[:2])] += x.size
    if depth == 50:
        assert sizes["params/encoder"] == sizes["target_params/encoder"] == 23_508_032
        assert sizes["params/projector"] == 9_449_472
        assert sizes["params/predictor"] == 2_109_440
        assert sizes["params/probe"] == 2_049_000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"predictor/linear_1": {}}, "Missing: online_params/predictor/linear_1/w"),
        ({"projector/linear_2": {"w": (1, 1)}}, "Not expected: online.*linear_2/w"),
        ({"classifier": {"w": (1000, 2048), "b": (1000,)}}, "other shapes: .*classif"),
    ],
)
def test_a_file_that_is_not_quite_it(change, said, monkeypatch):
    trees = manifest()
    trees["online_params"] = trees["online_params"] | change
    found = found_in(alike(trees), monkeypatch)
    with pytest.raises(ValueError, match=said):
        fill(found)


@pytest.mark.long
def test_a_published_network_says_the_same_here(
    tmp_path, foreign, in_process, monkeypatch
):
    """A pickle becomes a work directory, whose branches are TensorFlow's own."""
    trees = drawn(manifest())
    write(tmp_path / "byol.pkl", trees, foreign)
    monkeypatch.setitem(importing.FORMATS, "byol", tf_formats.byol)
    small = [("data.image_size", "64")]
    files = str(tmp_path / "byol.pkl"), str(tmp_path / "run")
    said = importing.bring("byol", *files, small)
    assert not said.fresh

    c = config.restored(json.loads((tmp_path / "run/config.json").read_text()))
    job = build.assemble(c, sharding.make_mesh(), **build.sizes(tmp_path / "run"))
    state, _ = restore_latest(tmp_path / "run/checkpoints", build.abstract(job))
    x = np.random.default_rng(1).uniform(size=(2, 64, 64, 3)).astype(np.float32)
    pixels = (x - np.float32([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    for who in WHO:
        net = Forward(trees[f"{who}_params"], trees[f"{who}_state"])
        h = tf.reduce_mean(encoder(net, tf.constant(pixels, tf.float32), 50, 1), [1, 2])
        z = net.head(h, "projector")
        params = dict(state.params)
        stats = dict(state.model_state["online"]) | dict(state.model_state[who])
        if who == "target":
            params |= dict(state.target_params)
        y = job.method.network.encode(params, stats, x)
        assert difference(y.h[0], h) < 1e-5
        assert difference(y.z[0], z) < 1e-5
        if who == "online":
            assert difference(y.p[0], net.head(z, "predictor")) < 1e-5
            logits = h @ net.params["classifier"]["w"] + net.params["classifier"]["b"]
            probe = params["probe"]
            assert difference(y.h[0] @ probe["kernel"] + probe["bias"], logits) < 1e-5
