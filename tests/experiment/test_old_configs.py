"""Work directories and cards from before config keys were renamed or added."""

import json

import pytest

from simclr_jax.experiment import base, config, old_configs, workdir
from simclr_jax.experiment.cards import fingerprint_of_recipe
from simclr_jax.experiment.old_configs import RENAMED, with_new_keys
from simclr_jax.reproduce import card
from tests.tools import begin_in

FORMER = {new: old for old, new in RENAMED.items()}
# The keys of every recipe, and of optim, before further ones were added.
RECIPE_KEYS = {
    "simclr": {"strength", "brightness", "crop", "blur", "blur_sigma"},
    "byol": {"crop", "blur", "solarise"},
    "moco_v1": set(),
    "moco_v2": {"blur"},
    "moco_v3": {"smallest", "blur", "solarise"},
    "dino": {"global_area", "local_area", "local_size", "locals", "blur", "solarise"},
    "tsimcne": set(),
    "crop_flip": {"crop"},
}
ADDED_TO_OPTIM = {"lr_end_scaling", "multipliers"}


def without_later_keys(c):
    """A plain config as written before keys were added."""
    keys = {"name"} | RECIPE_KEYS[c["augment"]["name"]]
    augment = {key: x for key, x in c["augment"].items() if key in keys}
    optim = {key: x for key, x in c["optim"].items() if key not in ADDED_TO_OPTIM}
    assert len(augment) == len(keys)
    data = {key: x for key, x in c["data"].items() if key != "shrink_batch"}
    rest = {key: x for key, x in c.items() if key != "init_code"}
    return rest | {"augment": augment, "optim": optim, "data": data}


def with_former_keys(c, prefix=""):
    """A plain config as an older version wrote it."""
    old = {}
    for key, value in c.items():
        path = f"{prefix}{key}"
        name = FORMER.get(path, path).removeprefix(prefix)
        section = isinstance(value, dict)
        old[name] = with_former_keys(value, f"{path}.") if section else value
    return old


@pytest.mark.parametrize("name", ["dino_imagenet", "byol_imagenet", "tsimcne_cifar10"])
def test_an_older_work_directory_opens(tmp_path, name):
    now = config.plain(config.load(f"configs/{name}.py"))
    old = with_former_keys(without_later_keys(now))
    assert {"transfer_from", "start", "late"} <= {
        *old,
        *old["encoder"],
        *old["optim"],
    }
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert workdir.read_saved(tmp_path) == now
    assert config.plain(workdir.saved_config(tmp_path)) == now


@pytest.mark.parametrize("recipe", list(RECIPE_KEYS))
def test_a_run_from_before_keys_were_added_goes_on(tmp_path, monkeypatch, recipe):
    """And its recipe has the fingerprint that it had."""
    c = base.get_config(augment=recipe)
    now = config.plain(c)
    old = without_later_keys(now)
    (tmp_path / "config.json").write_text(json.dumps(old))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    begin_in(tmp_path, c)
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert config.plain(workdir.saved_config(tmp_path)) == now
    fingerprint = fingerprint_of_recipe([now])
    for key, value in {"rotation": 0.5, "flip": 0.1, "operations": ["crop"]}.items():
        changed = now | {"augment": now["augment"] | {key: value}}
        assert fingerprint_of_recipe([changed]) != fingerprint
    monkeypatch.setattr(old_configs, "ADDED", {})
    assert fingerprint_of_recipe([old]) == fingerprint


def test_new_names_exist_and_are_left_alone():
    now = config.plain(config.load("configs/simclr_imagenet.py"))
    assert with_new_keys(now) == now
    names = {"recipe_batch_size", "encoder.zero_init", "optim.trust_coefficient"}
    assert names <= set(RENAMED.values())
    for name in names:
        section = now
        for part in name.split("."):
            section = section[part]


def test_a_former_name_on_the_command_line_is_told_its_new_one():
    c = config.load("configs/quickstart.py")
    with pytest.raises(ValueError, match=r"optim\.late is now called optim\.delayed"):
        config.override(c, [("optim.late", "('a',)")])


def test_committed_cards_say_that_they_were_migrated():
    cards = card.committed().values()
    assert cards
    for content in cards:
        assert card.is_intact(content)
        assert "former names" in content["migrated"]
        assert content["migrated"] in card.report(content)


def test_an_added_key_gets_its_former_value(tmp_path, monkeypatch):
    """Only where the config's factory has it; and then it changes no fingerprint."""
    added = {
        "optim.clip": 0.0,  # of every optimiser
        "optim.nesterov": True,  # of sgd only
        "augment.blur_sigma": "image",  # of simclr only
        "log_every": 19,
    }
    monkeypatch.setattr(old_configs, "ADDED", added)
    now = config.plain(config.load("quickstart"))
    for key in added:
        section, _, name = key.rpartition(".")
        (now[section] if section else now).pop(name, None)
    (tmp_path / "config.json").write_text(json.dumps(now))
    read = workdir.read_saved(tmp_path)
    assert read == config.plain(config.load("quickstart"))
    assert "nesterov" not in read["optim"]
    assert fingerprint_of_recipe([read]) == fingerprint_of_recipe([now])
    read["optim"]["clip"] = 1.0
    assert fingerprint_of_recipe([read]) != fingerprint_of_recipe([now])
