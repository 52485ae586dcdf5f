"""SimCLR's published networks, by TensorFlow's names of their variables."""

import json

import numpy as np
import pytest

from simclr_jax.zoo.tensorflow import formats as tf_formats
from simclr_jax.zoo.tensorflow import names as tf_names
from simclr_jax.zoo.tensorflow import read as tf_read
from tests.zoo.tf_simclr import (
    forward,
    manifest,
    random,
    write,
    write_model,
    write_objects,
)
from tests.zoo.workdirs import (
    convert,
    imported,
    logits,
    outputs,
    relative_difference,
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


def opened(shapes, file_type="tf1", values=None):
    """An open file. Each variable has one value everywhere: its index in the file.

    They use no memory, and are all different.
    """
    numbers = {name: np.float32(i) for i, name in enumerate(shapes)} | (values or {})

    def read(names):
        return {n: np.broadcast_to(numbers[n], shapes[n]) for n in names}

    return tf_read.VariableFile(file_type, dict(shapes), read)


def checkpoint_of(file_type="tf1", values=None, **network):
    """The checkpoint of a file with a network and further values by name."""
    shapes = manifest(naming=file_type, **network) | {
        name: np.shape(x) for name, x in (values or {}).items()
    }
    return tf_formats.checkpoint_of(opened(shapes, file_type, values))


@pytest.mark.parametrize(("depth", "width", "sk"), TRUNKS)
def test_every_variable_of_every_published_trunk_has_its_name(depth, width, sk):
    shapes = manifest(depth, width, sk, layers=0, classes=0)
    scheme = tf_names.VARIABLES
    trunk = tf_names.Trunk(depth, sk, "imagenet")
    assert tf_names.recognise(scheme, shapes) == (trunk, width)
    assert sorted(tf_names.trunk_table(scheme, trunk).values()) == sorted(shapes)
    convs = sum(name.endswith("/kernel") for name in shapes)
    norms = sum(name.endswith("/gamma") for name in shapes)
    assert (convs, norms) == TRUNKS[depth, width, sk][:2]


@pytest.mark.parametrize(("depth", "width", "sk"), [*QUICK, *LONG])
def test_a_published_network_has_all_of_our_arrays(depth, width, sk):
    checkpoint = checkpoint_of(depth=depth, width=width, sk=sk, layers=3)
    arrays, newly_initialised, _ = convert(checkpoint)
    encoder = {path: x.size for path, x in arrays.items() if "/encoder/" in path}
    trained = sum(n for path, n in encoder.items() if path.startswith("params/"))
    assert (sum(encoder.values()), trained) == TRUNKS[depth, width, sk][2:]
    assert len(arrays) == len(checkpoint.arrays)
    assert not newly_initialised
    assert f"encoder=resnet{depth},width={width}" in checkpoint.config
    assert ("sk=true" in checkpoint.config) == sk


@pytest.mark.parametrize("file_type", ["tf2", "saved_model"])
@pytest.mark.parametrize("sk", [False, True])
def test_all_file_types_have_the_same_arrays(file_type, sk):
    ours = {}
    for name in ("tf1", file_type):
        checkpoint = checkpoint_of(name, sk=sk, layers=3)
        names = {
            f"{part}/{path}": entry.name
            for part, naming in checkpoint.branches[0].parts.items()
            for path in PATHS[part](sk)
            if (entry := naming(path))
        }
        ours[name] = {path: checkpoint.arrays[name] for path, name in names.items()}
        assert len(names) == len(checkpoint.arrays)
    for path, x in ours["tf1"].items():
        np.testing.assert_array_equal(ours[file_type][path], x, err_msg=path)


def _encoder_paths(sk):
    trunk = tf_names.Trunk(50, sk, "imagenet")
    return tf_names.trunk_table(tf_names.VARIABLES, trunk)


PATHS = {  # of our arrays, by part
    "encoder": _encoder_paths,
    "projector": lambda sk: tuple(
        f"{layer}{j}/{leaf}"
        for j in (1, 2, 3)
        for layer, leaves in (("dense", ["kernel"]), ("bn", tf_names.NORM))
        for leaf in leaves
        if not (layer == "bn" and j == 3 and leaf == "bias")
    ),
    "probe": lambda sk: ("kernel", "bias"),
}


def test_the_version_and_the_head_follow_from_the_variables():
    checkpoint = checkpoint_of(layers=0, values={"global_step": np.int64(225_206)})
    assert checkpoint.config.startswith("simclr_imagenet.py:version=v1,")
    assert tf_formats.NO_HEAD in checkpoint.notes
    assert tf_formats.AMBIGUOUS_VERSION in checkpoint.notes
    assert set(checkpoint.branches[0].parts) == {"encoder", "probe"}

    checkpoint = checkpoint_of(layers=2, classes=0)
    assert checkpoint.config.startswith("simclr_imagenet.py:version=v1,")
    assert tf_formats.KERNEL_SCALE in checkpoint.notes
    assert set(checkpoint.branches[0].parts) == {"encoder", "projector"}

    checkpoint = checkpoint_of(layers=3)
    assert checkpoint.config.startswith("simclr_imagenet.py:version=v2,")
    assert dict(checkpoint.changes) == {
        "encoder.dtype": "float32",
        "encoder.stem": "imagenet",
        "method.layers": "3",
        "method.out": "128",
    }
    assert checkpoint.notes == (tf_formats.PIXELS,)
    assert checkpoint_of(depth=101, layers=0).config.startswith(
        "simclr_imagenet.py:version=v2,encoder=resnet101"
    )


@pytest.mark.parametrize(("step", "on_h"), [(751, False), (3754, False), (37535, True)])
def test_a_classifier_on_the_head_is_not_imported(step, on_h):
    checkpoint = checkpoint_of(layers=3, values={"global_step": np.int64(step)})
    assert ("probe" in checkpoint.branches[0].parts) == on_h
    assert (tf_formats.HEAD_CLASSIFIER in checkpoint.notes) != on_h
    assert any("head_supervised" in name for name in checkpoint.arrays) == on_h
    # A SavedModel does not store its step.
    assert (
        tf_formats.POSSIBLE_HEAD_CLASSIFIER
        in checkpoint_of("saved_model", layers=3).notes
    )


def test_unexpected_variables_of_a_saved_model_are_named():
    shapes = manifest(naming="saved_model", layers=3) | {"resnet/scale_3/gamma": (3,)}
    with pytest.raises(ValueError, match=r"Not expected: resnet/scale_3/gamma\."):
        convert(tf_formats.checkpoint_of(opened(shapes, "saved_model")))


def test_slots_averages_and_memory_are_not_read():
    network = manifest(layers=3)
    more = {f"{name}/Momentum": shape for name, shape in network.items()}
    more |= {f"ema_model/{n}": s for n, s in network.items() if "supervised" not in n}
    more |= {"global_step": (), "memory_bank/queue": (65536, 128)}
    file = opened(network | more, values={"global_step": np.int64(250_228)})
    assert tf_formats.checkpoint_of(file).arrays.keys() == network.keys()

    slot = "/.OPTIMIZER_SLOT/optimizer/Momentum"
    network = manifest(naming="tf2")
    more = {f"{name}{slot}": shape for name, shape in network.items()}
    more |= {"global_step": (), "optimizer/iter": (), "save_counter": ()}
    file = opened(network | more, "tf2")
    assert tf_formats.checkpoint_of(file).arrays.keys() == network.keys()


def test_the_moving_average_can_be_imported(tmp_path, monkeypatch):
    network = manifest(layers=3, classes=0)
    shapes = network | {f"ema_model/{name}": shape for name, shape in network.items()}
    both = opened(shapes)
    monkeypatch.setattr(tf_read, "open_file", lambda path: both)
    checkpoint = tf_formats.simclr_ema("model.ckpt")
    first = "base_model/conv2d/kernel"
    assert checkpoint.arrays.keys() == network.keys()
    assert checkpoint.arrays[first].flat[0] == list(shapes).index(f"ema_model/{first}")
    assert checkpoint.unread == {"all but ema_model/.*": len(network)}
    assert tf_formats.simclr("model.ckpt").unread == {"ema_model/.*": len(network)}
    monkeypatch.setattr(tf_read, "open_file", lambda path: opened(network))
    with pytest.raises(ValueError, match="no variables ema_model/"):
        tf_formats.simclr_ema("model.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
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
        ({"head_supervised/linear_layer/dense/bias": None}, r"no head_sup.*bias"),
        (
            {"base_model/conv2d/kernel": None},
            r"no SimCLR network: .*base_model/conv2d/",
        ),
    ],
)
def test_arrays_that_do_not_match_are_named(change, message):
    variables = manifest(layers=3) | change
    shapes = {name: shape for name, shape in variables.items() if shape is not None}
    with pytest.raises(ValueError, match=message):
        convert(tf_formats.checkpoint_of(opened(shapes)))


@pytest.mark.long
def test_files_of_all_types_have_the_same_arrays(tmp_path):
    writers = {"tf1": write, "tf2": write_objects, "saved_model": write_model}
    results = {}
    for name, writer in writers.items():
        writer(tmp_path / name, random(manifest(sk=True, layers=3, naming=name)))
        conversion = convert(tf_formats.simclr(str(tmp_path / name)))
        assert not conversion.newly_initialised
        results[name] = conversion.arrays
    for path, x in results.pop("tf1").items():
        for arrays in results.values():
            np.testing.assert_array_equal(arrays[path], x, err_msg=path)


@pytest.mark.long
@pytest.mark.parametrize(("sk", "layers"), [(False, 0), (True, 3)])
def test_a_network_computes_the_same_as_in_tensorflow(sk, layers, tmp_path, in_process):
    arrays = random(manifest(sk=sk, layers=layers))
    write(tmp_path / "model.ckpt-1", arrays | {"global_step": np.int64(250_228)})
    source = tmp_path / "model.ckpt-1"
    workdir = imported(tmp_path, "simclr", source, data__image_size="64")
    content = json.loads((workdir / "import.json").read_text())
    assert content["taken"] == len(arrays)
    assert all("/projector/" in layer for layer in content["fresh"])
    assert bool(content["fresh"]) == (not layers)
    x = np.random.default_rng(1).uniform(size=(2, 64, 64, 3)).astype(np.float32)
    y = outputs(workdir, x)
    h, z, classes = forward(arrays, x, sk, layers)
    assert relative_difference(y["h"], h) < 1e-5
    assert not layers or relative_difference(y["z"], z) < 1e-5
    assert relative_difference(logits(workdir, y["h"]), classes) < 1e-5
