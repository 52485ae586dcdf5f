"""SimCLR's published networks, by the names that TensorFlow has for them."""

import json

import numpy as np
import pytest

from simclr_jax import sharding
from simclr_jax.experiment import build, config, importing
from simclr_jax.train.checkpoint import restore_latest
from simclr_jax.zoo.tensorflow import formats as tf_formats
from simclr_jax.zoo.tensorflow import names as tf_names
from simclr_jax.zoo.tensorflow import read as tf_read
from tests.zoo.taking import difference, fill
from tests.zoo.tf_simclr import (
    drawn,
    forward,
    manifest,
    write,
    write_model,
    write_objects,
)

# (depth, width, sk): convolutions, batch norms, numbers with statistics, trainable ones
TRUNKS = {
    (50, 1, False): (53, 53, 23_561_152, 23_508_032),
    (50, 1, True): (87, 71, 35_277_408, 35_215_584),
    (50, 2, False): (53, 53, 94_013_312, 93_907_072),
    (50, 2, True): (87, 71, 140_428_864, 140_306_048),
    (50, 4, False): (53, 53, 375_590_656, 375_378_176),
    (101, 1, False): (104, 104, 42_605_504, 42_500_160),
    (101, 1, True): (172, 139, 64_786_144, 64_662_304),
    (101, 2, False): (104, 104, 169_981_824, 169_771_136),
    (101, 2, True): (172, 139, 257_377_984, 257_132_224),
    (152, 1, False): (155, 155, 58_295_232, 58_143_808),
    (152, 1, True): (257, 207, 89_119_584, 88_940_896),
    (152, 2, False): (155, 155, 232_556_416, 232_253_568),
    (152, 2, True): (257, 207, 353_752_896, 353_398_528),
    (152, 3, True): (257, 207, 795_235_360, 794_704_160),
    (200, 2, False): (203, 203, 250_480_512, 250_128_512),
}
QUICK = [(50, 1, False), (50, 1, True)]
LONG = [
    pytest.param(*row, marks=pytest.mark.long) for row in TRUNKS if row not in QUICK
]


def opened(shapes, kind="tf1", known=None):
    """An open file. Each variable has one value all over: its number in the file.

    So they take no memory, and still differ.
    """
    number = {name: np.float32(i) for i, name in enumerate(shapes)} | (known or {})
    read = lambda names: {n: np.broadcast_to(number[n], shapes[n]) for n in names}  # noqa: E731
    return tf_read.Stored(kind, dict(shapes), read)


def described(kind="tf1", known=None, **network):
    """What is found in a file of that naming."""
    shapes = manifest(naming=kind, **network) | {
        name: np.shape(x) for name, x in (known or {}).items()
    }
    return tf_formats.described(opened(shapes, kind, known))


@pytest.mark.parametrize(("depth", "width", "sk"), TRUNKS)
def test_the_walk_names_every_variable_of_every_published_trunk(depth, width, sk):
    shapes = manifest(depth, width, sk, layers=0, classes=0)
    scheme = tf_names.VARIABLES
    trunk = tf_names.Trunk(depth, sk, "imagenet")
    assert tf_names.recognise(scheme, shapes) == (trunk, width)
    assert sorted(tf_names.trunk_table(scheme, trunk).values()) == sorted(shapes)
    convs = sum(name.endswith("/kernel") for name in shapes)
    norms = sum(name.endswith("/gamma") for name in shapes)
    assert (convs, norms) == TRUNKS[depth, width, sk][:2]


@pytest.mark.parametrize(("depth", "width", "sk"), [*QUICK, *LONG])
def test_a_published_trunk_fills_ours(depth, width, sk):
    found = described(depth=depth, width=width, sk=sk, layers=3)
    got, fresh = fill(found)
    encoder = {path: x.size for path, x in got.items() if "/encoder/" in path}
    trained = sum(n for path, n in encoder.items() if path.startswith("params/"))
    assert (sum(encoder.values()), trained) == TRUNKS[depth, width, sk][2:]
    assert len(got) == len(found.arrays)
    assert not fresh
    assert f"encoder=resnet{depth},width={width}" in found.config
    assert ("sk=true" in found.config) == sk


@pytest.mark.parametrize("kind", ["tf2", "saved_model"])
@pytest.mark.parametrize("sk", [False, True])
def test_other_namings_say_the_same(kind, sk):
    ours = {}
    for naming in ("tf1", kind):
        found = described(naming, sk=sk, layers=3)
        names = {
            f"{part}/{path}": place(path).name
            for part, place in found.branches[0].parts.items()
            for path in INSIDE[part](sk)
        }
        ours[naming] = {path: found.arrays[name] for path, name in names.items()}
        assert len(names) == len(found.arrays)
    for path, x in ours["tf1"].items():
        np.testing.assert_array_equal(ours[kind][path], x, err_msg=path)


def _inside(sk):
    trunk = tf_names.Trunk(50, sk, "imagenet")
    return tf_names.trunk_table(tf_names.VARIABLES, trunk)


INSIDE = {
    "encoder": _inside,
    "projector": lambda sk: tuple(
        f"{layer}{j}/{leaf}"
        for j in (1, 2, 3)
        for layer, leaves in (("dense", ["kernel"]), ("bn", tf_names.NORM))
        for leaf in leaves
        if not (layer == "bn" and j == 3 and leaf == "bias")
    ),
    "probe": lambda sk: ("kernel", "bias"),
}


def test_what_version_and_head_the_file_has():
    found = described(layers=0, known={"global_step": np.int64(225_206)})
    assert found.config.startswith("simclr_imagenet.py:version=v1,")
    assert tf_formats.NO_HEAD in found.notes
    assert tf_formats.EITHER in found.notes
    assert set(found.branches[0].parts) == {"encoder", "probe"}

    found = described(layers=2, classes=0)
    assert found.config.startswith("simclr_imagenet.py:version=v1,")
    assert tf_formats.KERNELS in found.notes
    assert set(found.branches[0].parts) == {"encoder", "projector"}

    found = described(layers=3)
    assert found.config.startswith("simclr_imagenet.py:version=v2,")
    assert dict(found.changes) == {
        "encoder.dtype": "float32",
        "encoder.stem": "imagenet",
        "method.layers": "3",
        "method.out": "128",
    }
    assert found.notes == (tf_formats.PIXELS,)
    assert described(depth=101, layers=0).config.startswith(
        "simclr_imagenet.py:version=v2,encoder=resnet101"
    )


@pytest.mark.parametrize(
    ("step", "there"), [(751, False), (3754, False), (37535, True)]
)
def test_a_classifier_on_the_head_is_no_probe(step, there):
    found = described(layers=3, known={"global_step": np.int64(step)})
    assert ("probe" in found.branches[0].parts) == there
    assert (tf_formats.ELSEWHERE in found.notes) != there
    assert any("head_supervised" in name for name in found.arrays) == there
    # A SavedModel does not say its step.
    assert tf_formats.PERHAPS in described("saved_model", layers=3).notes


def test_what_a_saved_model_has_besides_is_named():
    shapes = manifest(naming="saved_model", layers=3) | {"resnet/scale_3/gamma": (3,)}
    with pytest.raises(ValueError, match=r"Not expected: resnet/scale_3/gamma\."):
        fill(tf_formats.described(opened(shapes, "saved_model")))


def test_slots_averages_and_memory_are_left():
    own = manifest(layers=3)
    more = {f"{name}/Momentum": shape for name, shape in own.items()}
    more |= {f"ema_model/{n}": s for n, s in own.items() if "supervised" not in n}
    more |= {"global_step": (), "memory_bank/queue": (65536, 128)}
    shapes = own | more
    stored = opened(shapes, known={"global_step": np.int64(250_228)})
    found = tf_formats.described(stored)
    assert found.arrays.keys() == own.keys()

    slot = "/.OPTIMIZER_SLOT/optimizer/Momentum"
    own = manifest(naming="tf2")
    more = {f"{name}{slot}": shape for name, shape in own.items()}
    more |= {"global_step": (), "optimizer/iter": (), "save_counter": ()}
    assert tf_formats.described(opened(own | more, "tf2")).arrays.keys() == own.keys()


def test_the_average_can_be_asked_for(tmp_path, monkeypatch):
    own = manifest(layers=3, classes=0)
    shapes = own | {f"ema_model/{name}": shape for name, shape in own.items()}
    both = opened(shapes)
    monkeypatch.setattr(tf_read, "stored", lambda path: both)
    found = tf_formats.simclr_ema("model.ckpt")
    first = "base_model/conv2d/kernel"
    assert found.arrays.keys() == own.keys()
    assert found.arrays[first].flat[0] == list(shapes).index(f"ema_model/{first}")
    assert found.unread == {"all but ema_model/.*": len(own)}
    assert tf_formats.simclr("model.ckpt").unread == {"ema_model/.*": len(own)}
    monkeypatch.setattr(tf_read, "stored", lambda path: opened(own))
    with pytest.raises(ValueError, match="no variables ema_model/"):
        tf_formats.simclr_ema("model.ckpt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"base_model/conv2d_30/kernel": None},
            r"Missing: base_model/conv2d_30/kernel",
        ),
        ({"base_model/batch_normalization_7/beta": None}, r"Missing: .*_7/beta"),
        ({"base_model/conv2d_53/kernel": (1, 1, 8, 8)}, r"Not expected: .*conv2d_53"),
        (
            {"head_contrastive/nl_2/batch_normalization/beta": (128,)},
            r"Not expected: h",
        ),
        ({"base_model/conv2d_2/kernel": (64, 64, 1, 1)}, r"other shapes: .*conv2d_2/"),
        ({"head_supervised/linear_layer/dense/bias": None}, r"Missing: head_sup.*bias"),
        (
            {"base_model/conv2d/kernel": None},
            r"no SimCLR network: .*base_model/conv2d/",
        ),
    ],
)
def test_a_file_that_is_not_quite_it(change, said):
    wanted = manifest(layers=3) | change
    shapes = {name: shape for name, shape in wanted.items() if shape is not None}
    with pytest.raises(ValueError, match=said):
        fill(tf_formats.described(opened(shapes)))


@pytest.mark.long
def test_all_three_kinds_of_files_hold_the_same(tmp_path):
    writers = {"tf1": write, "tf2": write_objects, "saved_model": write_model}
    got = {}
    for kind, put in writers.items():
        put(tmp_path / kind, drawn(manifest(sk=True, layers=3, naming=kind)))
        got[kind], fresh = fill(tf_formats.simclr(str(tmp_path / kind)))
        assert not fresh
    for path, x in got.pop("tf1").items():
        for arrays in got.values():
            np.testing.assert_array_equal(arrays[path], x, err_msg=path)


@pytest.mark.long
@pytest.mark.parametrize(("sk", "layers"), [(False, 0), (True, 3)])
def test_a_published_network_says_the_same_here(
    sk, layers, tmp_path, in_process, monkeypatch
):
    """A TF1 file becomes a work directory, whose network is TensorFlow's own."""
    arrays = drawn(manifest(sk=sk, layers=layers))
    steps = {"global_step": np.int64(250_228)}
    write(tmp_path / "model.ckpt-1", arrays | steps)
    monkeypatch.setitem(importing.FORMATS, "simclr", tf_formats.simclr)
    said = importing.bring(
        "simclr",
        str(tmp_path / "model.ckpt-1"),
        str(tmp_path / "run"),
        [("data.image_size", "64")],
    )
    assert said.taken == len(arrays)
    assert all("/projector/" in layer for layer in said.fresh)
    assert bool(said.fresh) == (not layers)

    c = config.restored(json.loads((tmp_path / "run/config.json").read_text()))
    job = build.assemble(c, sharding.make_mesh(), **build.sizes(tmp_path / "run"))
    state, _ = restore_latest(tmp_path / "run/checkpoints", build.abstract(job))
    x = np.random.default_rng(1).uniform(size=(2, 64, 64, 3)).astype(np.float32)
    y = job.method.network.encode(*job.method.kept(state), x)
    h, z, logits = forward(arrays, x, sk, layers)
    probe = state.params["probe"]
    assert difference(y.h[0], h) < 1e-5
    assert not layers or difference(y.z[0], z) < 1e-5
    assert difference(y.h[0] @ probe["kernel"] + probe["bias"], logits) < 1e-5
