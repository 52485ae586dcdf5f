"""Reading, changing and comparing configs."""

import pathlib
import pwd
import re
import sys

import jax
import pytest

from simclr_jax.experiment import config, config_files, schema, values
from simclr_jax.suggest import check_name

CONFIGS = [str(p) for p in sorted(pathlib.Path("configs").glob("[a-z]*_*.py"))]


@pytest.mark.parametrize("path", [*CONFIGS, "configs/quickstart.py"])
def test_every_config_survives_json(path):
    c = config.load(path)
    schema.check(c)
    assert config.plain(config.restored(config.plain(c))) == config.plain(c)
    assert config.restored(config.plain(c)).to_dict() == c.to_dict()


CONFIG_FILE = """
import sizes_beside
from simclr_jax.experiment import base

def get_config(*, batch=16):
    c = base.get_config("simclr", encoder="resnet10", optim="adamw")
    base.quickstart(c)
    c.encoder.channels = sizes_beside.CHANNELS
    c.data.batch_size = batch
    return c
"""


def test_a_file_in_any_folder_may_import_modules_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "my configs"
    folder.mkdir()
    (folder / "mine.py").write_text(CONFIG_FILE)
    (folder / "sizes_beside.py").write_text("CHANNELS = 4")
    path = list(sys.path)
    for _ in range(2):
        c = config.read(f"{folder}/mine.py:batch=8", [("method.hidden", "16")])
    assert (c.encoder.channels, c.data.batch_size, c.method.hidden) == (4, 8, 16)
    assert sys.path == [*path, str(folder)]  # last, so it replaces no other module
    monkeypatch.delitem(sys.modules, "sizes_beside")


def test_an_argument_of_a_file_twice_is_an_error():
    with pytest.raises(ValueError, match="batch is given more than once"):
        config.load("simclr_imagenet:batch=512,batch=1024")


def test_a_file_of_a_home_that_does_not_exist_is_not_there(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])  # a user without an entry
    with pytest.raises(ValueError, match="no file ~"):
        config_files.find("~/mine.py")


@pytest.mark.parametrize(
    ("text", "like", "value"),
    [
        ("3", 1, 3),
        ("3", 1.0, 3.0),
        ("1e-6", 1.0, 1e-6),
        ("true", False, True),
        ("False", True, False),
        ("3", "text", "3"),
        ("(1, 2.5)", (0.0, 0.0), (1, 2.5)),
        ("('a',)", ("b", "c"), ("a",)),
        ("('^a/', 'b$')", (), ("^a/", "b$")),
    ],
)
def test_values(text, like, value):
    parsed = values.parse(text, like, "key")
    assert parsed == value
    assert type(parsed) is type(like)


@pytest.mark.parametrize(
    ("text", "like"),
    [
        ("true", 1),
        ("1", True),
        ("1.5", 1),
        ("x", 1.0),
        ("(1,)", (0.0, 0.0)),
        ("(1, True)", (0.0, 0.0)),
        ("3", (0.0, 0.0)),
        ("(1,)", ("a",)),
    ],
)
def test_wrong_types(text, like):
    with pytest.raises(ValueError, match="must be"):
        values.parse(text, like, "key")


def test_another_name_has_the_defaults_of_its_factory():
    c = config.load("configs/simclr_imagenet.py:width=2")
    config.override(c, [("encoder.sk_ratio", "0.0625"), ("encoder.name", "resnet101")])
    assert (c.encoder.name, c.encoder.width) == ("resnet101", 2)  # the file's choice
    assert c.encoder.sk_ratio == 0.0625  # the command line's, whatever the order
    config.override(c, [("optim.name", "adamw")])
    assert c.optim.weight_decay == 0.1  # adamw's own
    assert c.optim.lr == 0.3  # of the section, not of one optimiser
    assert "trust" not in c.optim


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", (4096, "linear", 0.3, 1e-6, 10, 2, "additive", 100)),
        ("lr_scaling=sqrt", (4096, "sqrt", 0.075, 1e-6, 10, 2, "additive", 100)),
        ("batch=512,epochs=800", (512, "linear", 0.3, 1e-6, 10, 2, "additive", 800)),
        ("version=v2", (4096, "sqrt", 0.1, 1e-4, 40, 3, "multiplicative", 800)),
    ],
)
def test_imagenet_presets_do_not_mix_versions(arguments, expected):
    c = config.load(f"configs/simclr_imagenet.py:{arguments}")
    assert expected == (
        c.data.batch_size,
        c.optim.lr_scaling,
        c.optim.lr,
        c.optim.weight_decay,
        c.optim.warmup_epochs,
        c.method.layers,
        c.augment.brightness,
        c.epochs,
    )
    assert c.method.temperature == 0.1
    assert c.method.directions == 2


@pytest.mark.parametrize(
    "arguments", ["version=v3", "version=v2,lr_scaling=linear", "sk=true", "depth=3"]
)
def test_unknown_presets(arguments):
    with pytest.raises(ValueError, match=r"v2|depth"):
        config.load(f"configs/simclr_imagenet.py:{arguments}")


def test_cifar10_has_the_released_recipe():
    from simclr_jax.experiment import build

    c = config.load("configs/simclr_cifar10.py")
    assert build.length(c, 50_000) == (97657, 976)
    assert (c.augment.strength, c.augment.blur) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("stage", "total", "rates"),
    [
        (1, 58_000, {0: 0, 1: 0.12 / 9, 9: 0.12, 10: 0.12, 505: 0.0600951}),
        (2, 2_900, {0: 0.12, 1: 0.1198862, 49: 0.00045477}),
        (3, 26_100, {0: 0, 1: 1.333e-5, 9: 1.2e-4, 10: 1.2e-4}),
    ],
)
def test_tsimcne_cifar10_has_the_recipe_of_the_paper(stage, total, rates):
    """Epochs, rates by epoch, and what is decayed and frozen, in each stage."""
    from simclr_jax.experiment import build

    init_from = ",init_from=elsewhere" if stage > 1 else ""
    c = config.load(f"configs/tsimcne_cifar10.py:stage={stage}{init_from}")
    assert build.length(c, 60_000)[0] == total
    rate = build.build_schedule(c, images=60_000)
    for epoch, expected in rates.items():
        for step in (58 * epoch, 58 * epoch + 57):
            assert rate(step) == pytest.approx(expected, rel=4e-4, abs=1e-12)
    one = jax.numpy.ones(1)
    layers = ("dense1", "dense2")
    params = {
        "encoder": {"bn1": {"scale": one}},
        "projector": {name: {"bias": one, "kernel": one} for name in layers},
    }
    tx = build.build_optimiser(c, images=60_000, probing=False)
    state = tx.init(params)
    for step in (0, 1):  # without a gradient only decay and momentum move
        grads = jax.tree.map(jax.numpy.zeros_like, params)
        moves, state = tx.update(grads, state, params, rate=1.0, step=step)
    moves = jax.tree.map(lambda x: -x.item(), moves)
    decay = 5e-4 * 1.9  # twice, and plain momentum of 0.9
    assert moves["projector"]["dense2"] == pytest.approx(
        {"bias": decay, "kernel": decay}
    )
    rest = 0.0 if stage == 2 else decay
    assert moves["encoder"]["bn1"]["scale"] == pytest.approx(rest)
    assert moves["projector"]["dense1"]["bias"] == pytest.approx(rest)


@pytest.mark.parametrize("name", ["tsimcne_cifar10", "tsimcne_quickstart"])
def test_later_stages_need_init_from(name):
    with pytest.raises(ValueError, match=r"goes on from stage 1: .*init_from=DIR"):
        config.load(f"configs/{name}.py:stage=2")
    with pytest.raises(ValueError, match="stage=4: must be 1, 2 or 3"):
        config.load(f"configs/{name}.py:stage=4,init_from=x")


def test_steps_set_the_total():
    from simclr_jax.experiment import build

    c = config.load("configs/simclr_imagenet.py")
    assert build.length(c, 1_281_167) == (31279, 3127)
    with c.unlocked():
        c.steps = 200
    assert build.length(c, 1_281_167) == (200, 20)


def test_differences_name_both_values():
    old = config.plain(config.load("configs/quickstart.py"))
    c = config.load("configs/quickstart.py")
    assert c.data.colour == "host"
    changes = [
        ("optim.lr", "0.7"),
        ("log_every", "1"),
        ("checkpoint.every", "3"),
        ("data.data_dir", "elsewhere"),
        ("data.colour", "device"),
    ]
    config.override(c, changes)
    lines = config.differences(old, config.plain(c), config.MAY_CHANGE)
    assert len(lines) == 1
    assert lines[0].startswith("optim.lr: was ")
    assert lines[0].endswith("now 0.7")


def test_another_factory_is_compared_in_the_keys_that_both_have():
    old = config.plain(config.load("quickstart"))
    c = config.load("quickstart")
    config.override(c, [("encoder.name", "vit_mini"), ("encoder.dtype", "bfloat16")])
    lines = config.differences(old, config.plain(c))
    assert "encoder.name: was 'resnet10', now 'vit_mini'" in lines
    assert "encoder.dtype: was 'float32', now 'bfloat16'" in lines
    assert not [line for line in lines if "None" in line]


@pytest.mark.parametrize(
    ("text", "like", "expected"),
    [
        ("abc", 100.0, "key must be a number, such as 100.0 (got 'abc')."),
        ("1.5", 3, "key must be a whole number, such as 3 (got '1.5')."),
        ("yes", True, "key must be true or false, such as true (got 'yes')."),
        ("(1,)", (0.1, 0.2), "must be a tuple of 2 numbers, such as (0.1, 0.2) (got"),
        ("3", ("a",), "must be a tuple of strings, such as ('a', 'b') or ('a',) (got"),
    ],
)
def test_a_value_of_a_wrong_type(text, like, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        values.parse(text, like, "key")


@pytest.mark.parametrize(
    ("images", "batch_size"), [(60_000, 256), (256, 256), (255, 128), (54, 32), (1, 1)]
)
def test_a_batch_is_halved_until_the_set_holds_it(images, batch_size):
    from simclr_jax.experiment import training

    c = config.load("folder")
    fitting, note = training.with_shrunk_batch(c, images)
    assert (c.data.batch_size, fitting.data.batch_size) == (256, batch_size)
    assert bool(note) == (batch_size < 256)
    assert not note or f"{images} pictures: using {batch_size}" in note
    c.data.shrink_batch = False
    assert training.with_shrunk_batch(c, images) == (c, "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.optim.lrr = 1.0", "lrr"),
        ("c.optim.lr = 'fast'", "TypeError"),
        ("c.optim.lr = = 1", "SyntaxError"),
        ("return c.nothing", "nothing"),
    ],
)
def test_errors_inside_a_config_file(tmp_path, line, message):
    (tmp_path / "mine").mkdir()
    text = "from simclr_jax.experiment import base\n"
    text += f"def get_config():\n    c = base.get_config()\n    {line}\n    return c\n"
    (tmp_path / "mine" / "own.py").write_text(text)
    with pytest.raises(ValueError, match=rf"own\.py.*{message}"):
        config.load(str(tmp_path / "mine" / "own.py"))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("patience", "0"),
        ("checkpoint.keep", "0"),
        ("checkpoint.keep_every", "-1"),
        ("evaluate.every", "-1"),
        ("evaluate.knn.k", "0"),
        ("evaluate.linear_augmented.batch_size", "0"),
        ("evaluate.linear_augmented.epochs", "-3"),
        ("probe.views", "-1"),
        ("optim.warmup_epochs", "-2.0"),
        ("optim.lr_end", "-1e-6"),
        ("optim.clip", "-1.0"),
        ("seed", "99999999999999999999"),
        ("epochs", "1e400"),
    ],
)
def test_numbers_out_of_range(key, text):
    c = config.load("configs/quickstart.py")
    config.override(c, [(key, text)])
    with pytest.raises(ValueError, match=rf"{key}=.*(must be|not a number)"):
        schema.check(c)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("method.out", "0"), "out = 0"),
        (("method.hidden", "-1"), "hidden = -1"),
        (("method.temperature", "0.0"), "temperature must be above 0"),
        (("encoder.std", "(0.0, 1.0, 1.0)"), "std above 0"),
        (("encoder.bn_group", "3"), "groups of 3 rows needs a batch that they divide"),
        (("augment.name", "crop_flip"), "two views of each picture.*makes 1"),
        (("optim.no_decay", "('(',)"), "not a regular expression"),
        (("optim.frozen", "('^encodr/',)"), r"'\^encodr/' matches no parameter"),
        (("optim.multipliers", "('^encoder/',)"), "is not REGEX=FACTOR"),
        (("augment.operations", "('crp',)"), "Did you mean 'crop'"),
    ],
)
@pytest.mark.parametrize("classes", [0, 10])
def test_parts_that_cannot_be_built(change, message, classes):
    """Before anything is compiled, with the probe and without it."""
    from simclr_jax import sharding
    from simclr_jax.experiment import build

    c = config.load("configs/quickstart.py")
    config.override(c, [change])
    mesh = sharding.make_mesh(jax.devices()[:1])
    with pytest.raises(ValueError, match=message):
        build.assemble(c, mesh, images=5000, classes=classes)


def test_another_recipe_keeps_the_settings_that_fit():
    """SimCLR's probability of the blur is no value for BYOL, which has two."""
    c = config.load("quickstart")
    config.override(c, [("augment.name", "byol")])
    assert (c.augment.strength, c.augment.blur) == (0.3, (1.0, 0.1))


def test_only_crops_is_one_override():
    from simclr_jax.data.recipes import crop_flip
    from simclr_jax.experiment import build

    c = config.load("quickstart")
    config.override(c, [("augment.operations", "('crop',)")])
    view, _ = build.recipe(c)
    (plain,) = crop_flip(size=32, flip=0.0)
    shares = ("crop", "area", "resize", "flip", "rotation", "jitter", "grey", "blur")
    assert [getattr(view, x) for x in shares] == [getattr(plain, x) for x in shares]


@pytest.mark.parametrize("shape", ["cosine", "dino", "epochs", "tsimcne"])
def test_the_last_rate_may_be_a_share_of_the_peak(shape):
    from simclr_jax.experiment import build

    c = config.load("quickstart")
    changes = {"lr_end": "0.1", "lr_end_scaling": "peak", "schedule": shape}
    config.override(c, [(f"optim.{key}", x) for key, x in changes.items()])
    config.override(c, [("optim.lr", "0.02"), ("optim.lr_scaling", "sqrt")])
    schema.check(c)
    rate = build.build_schedule(c, images=5000)
    assert rate(10_000) == pytest.approx(0.1 * 0.02 * 16)  # of batch 256
    c.optim.lr_end = 1.5
    with pytest.raises(ValueError, match=r"lr_end=1\.5.*share.*lr_end_scaling"):
        schema.check(c)
    c.optim.lr_end_scaling = "none"
    schema.check(c)
    assert build.build_schedule(c, images=5000)(10_000) == pytest.approx(1.5)


# Keys that scripts of users rely on, and their types.
PUBLIC_KEYS = {
    "seed": int,
    "epochs": float,
    "steps": int,
    "log_every": int,
    "data.name": str,
    "data.data_dir": str,
    "data.batch_size": int,
    "data.image_size": int,
    "data.colour": str,
    "data.split": str,
    "data.eval_split": str,
    "augment.name": str,
    "augment.strength": float,
    "augment.brightness": str,
    "checkpoint.every": int,
    "evaluate.every": int,
    "method.name": str,
    "encoder.name": str,
    "encoder.dtype": str,
    "optim.name": str,
    "optim.lr": float,
    "optim.lr_scaling": str,
}

ONLY_SIMCLR = ("augment.strength", "augment.brightness")  # that recipe's own


@pytest.mark.parametrize("path", [*CONFIGS, "configs/quickstart.py"])
def test_public_keys_keep_their_type(path):
    c = config.load(path)
    for key, type_ in PUBLIC_KEYS.items():
        if key in ONLY_SIMCLR and c.augment.name != "simclr":
            continue
        value = c
        for part in key.split("."):
            value = value[part]
        assert type(value) is type_, key


def test_a_run_of_less_than_a_step():
    from simclr_jax.experiment import build

    c = config.load("configs/quickstart.py")
    c.epochs = 0.01
    with pytest.raises(ValueError, match="not one step"):
        build.length(c, 5000)


def test_of_very_many_names_the_nearest_are_shown():
    names = [f"row_{i}" for i in range(100)]
    with pytest.raises(ValueError, match="Did you mean 'row_7'") as caught:
        check_name("rov_7", names, "ROW")
    assert "There are: 100, such as row_7" in str(caught.value)
    assert str(caught.value).count("row_") == 9
