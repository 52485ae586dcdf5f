"""The schema of configs: a section has its factory's keyword-only arguments."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from operator import getitem
from typing import Any

from ml_collections import ConfigDict

from simclr_jax.data.recipes import RECIPES
from simclr_jax.data.view import OPERATIONS
from simclr_jax.evaluate.attention import attention
from simclr_jax.evaluate.embedding_2d import map2d
from simclr_jax.evaluate.factors import factors
from simclr_jax.evaluate.finetune import OPTIMISERS as FINETUNE_OPTIMISERS
from simclr_jax.evaluate.finetune import finetune
from simclr_jax.evaluate.knn import knn
from simclr_jax.evaluate.linear import linear
from simclr_jax.evaluate.linear_augmented import (
    CROPS,
    INITIALIZERS,
    SCHEDULES,
    linear_augmented,
)
from simclr_jax.evaluate.linear_augmented import OPTIMISERS as LINEAR_OPTIMISERS
from simclr_jax.evaluate.linear_transfer import METRICS, transfer
from simclr_jax.experiment import external, part_results, parts
from simclr_jax.methods.catalog import METHODS
from simclr_jax.models.catalog import ENCODERS
from simclr_jax.suggest import check_name
from simclr_jax.train import profile
from simclr_jax.train.optim import OPTIMISERS
from simclr_jax.train.schedules import END_SCALINGS, LENGTHS, SCALINGS, SHAPES

# The catalogues of the sections that name a factory. In data, name is that of a set.
SECTIONS: dict[str, dict[str, Callable]] = {
    "method": METHODS,
    "encoder": ENCODERS,
    "augment": RECIPES,
    "optim": OPTIMISERS,
    "data": {},
}
PROTOCOLS: dict[str, Callable] = {
    "knn": knn,
    "linear": linear,
    "linear_augmented": linear_augmented,
    "map2d": map2d,
    "transfer": transfer,
    "finetune": finetune,
    "factors": factors,
    "attention": attention,
}
DATA = {  # the keys of data beside those of a factory
    "data_dir": "",  # of TFDS; "": its own default
    "split": "train",
    "eval_split": "validation",
    "bank_split": "",  # labelled images of evaluations; "": split
    "batch_size": 4096,  # images, not views; over all devices
    "shrink_batch": False,  # halve it until the split has as many images
    "image_size": 224,
    "colour": "host",  # or device: colour jitter and blur in the step
}
COMMON: dict[str, dict[str, Any]] = {  # the keys beside those of any factory
    "data": DATA,
    "augment": {"operations": OPERATIONS},  # ("crop",): nothing but crops
}
CHOICES = {  # fields whose value is one of a few names
    "optim.lr_scaling": tuple(SCALINGS),
    "optim.lr_end_scaling": tuple(END_SCALINGS),
    "optim.schedule": tuple(SHAPES),
    "optim.length": tuple(LENGTHS),
    "data.colour": ("host", "device"),
    "placement": ("replicated", "fsdp"),
    "evaluate.linear_augmented.optimiser": LINEAR_OPTIMISERS,
    "evaluate.linear_augmented.schedule": SCHEDULES,
    "evaluate.linear_augmented.length": tuple(LENGTHS),
    "evaluate.linear_augmented.initializer": tuple(INITIALIZERS),
    "evaluate.linear_augmented.crops": tuple(CROPS),
    "evaluate.transfer.metric": METRICS,
    "evaluate.finetune.optimiser": FINETUNE_OPTIMISERS,
    "evaluate.finetune.lr_scaling": tuple(SCALINGS),
}
POSITIVE = (
    *("epochs", "log_every", "patience", "probe.views", "optim.microbatches"),
    *("data.batch_size", "data.image_size", "checkpoint.every", "checkpoint.keep"),
    *("evaluate.batch_size", "evaluate.knn.k", "evaluate.knn.temperature"),
    *("evaluate.linear.iterations", "evaluate.linear_augmented.epochs"),
    *("evaluate.linear_augmented.batch_size", "evaluate.linear_augmented.lr"),
    *("evaluate.linear_augmented.validation", "evaluate.map2d.k"),
    *("evaluate.transfer.weakest", "evaluate.transfer.strengths"),
    *("evaluate.transfer.validation", "evaluate.transfer.iterations"),
    *("evaluate.finetune.batch_size", "evaluate.finetune.lr"),
    "evaluate.factors.pictures",
)
NOT_NEGATIVE = (
    *("steps", "recipe_batch_size", "health_every", "checkpoint.keep_every"),
    "optim.lr",
    *("optim.warmup_epochs", "optim.lr_end", "optim.clip", "optim.delay_epochs"),
    *("evaluate.every", "evaluate.linear.l2", "evaluate.linear_augmented.weight_decay"),
    "evaluate.finetune.epochs",
)


def defaults(factory: Callable) -> dict[str, Any]:
    """A factory's keyword-only arguments that have a default, with their defaults.

    The others, such as `size` or `total_steps`, depend on the run, see `call`.
    """
    parameters = inspect.signature(factory).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty
    }


def factory(part: str, name: str) -> Callable[..., Any]:
    """The factory that a config names: of the catalogue, or `package.module:factory`.

    Args:
      part: one of SECTIONS, or "protocol".
      name: as in the config.

    Raises:
      ValueError: an unknown name (suggests the nearest), or as in `external.load`.
    """
    catalogue = PROTOCOLS if part == "protocol" else SECTIONS[part]
    open_part = part in parts.SIGNATURES  # an optimiser is one of the catalogue
    if name not in catalogue and open_part and external.is_external(name):
        return external.load(part, name)
    names = [*catalogue, *(["package.module:factory"] if open_part else [])]
    check_name(name, names, parts.field(part))
    return catalogue[name]


def settings(part: str, name: str) -> dict[str, Any]:
    """The keys of the section of a factory, with the factory's defaults.

    Raises:
      ValueError: as in `factory`; or a key has the name of another key of the section.
    """
    if part == "data" and not external.is_external(name):
        return {}
    derived = parts.SIGNATURES[part].derived if part in parts.SIGNATURES else ()
    keys = {k: x for k, x in defaults(factory(part, name)).items() if k not in derived}
    if clash := keys.keys() & {"name", *COMMON.get(part, ())}:
        raise ValueError(
            f"{parts.label(part, name)} cannot have the argument {', '.join(clash)}: "
            f"every section {part} has a key of that name."
        )
    return keys


def section(part: str, name: str) -> ConfigDict:
    """All keys of the section of a factory; its defaults are the paper's numbers.

    Raises:
      ValueError: as in `settings`.
    """
    common = COMMON.get(part, {})
    return ConfigDict({"name": name, **common, **settings(part, name)})


def protocol_key(name: str) -> str:
    """The key of `evaluate` with the settings of a protocol."""
    return name.rpartition(":")[2]


def protocols() -> dict[str, dict[str, Any]]:
    """The sections of the evaluation protocols."""
    return {name: defaults(protocol) for name, protocol in PROTOCOLS.items()}


def call(part: str, values: Mapping[str, Any], *args: Any, **derived: Any) -> Any:
    """Calls the factory that a section names.

    Args:
      part: one of SECTIONS, or "protocol".
      values: the section; of its keys, the factory gets those that it declares.
      args: positional arguments of the factory.
      derived: arguments that depend on the run; passed if the factory has them.

    Raises:
      ValueError: a key of the factory is missing in the section, or the factory
        refuses a value; or, for one from outside, returns something else than a part.
    """
    name = values["name"]
    make = factory(part, name)
    keys = settings(part, name)
    if absent := [key for key in keys if key not in values]:
        raise ValueError(
            f"{parts.label(part, name)} has the settings {', '.join(keys)}, and the "
            f"section {part} lacks {', '.join(absent)}. Give the name to get_config of "
            f"experiment/base.py, or as --config.{part}.name, which adds them."
        )
    kwargs = {key: values[key] for key in keys}
    declared = inspect.signature(make).parameters
    kwargs |= {key: x for key, x in derived.items() if key in declared}
    result = make(*args, **kwargs)
    if external.is_external(name):
        part_results.check_result(part, name, result)
    return result


def child(tree: Mapping[str, Any] | ConfigDict, key: str, parent: str) -> Any:
    """tree[key]; a ValueError with the nearest spelling if there is no such key."""
    check_name(key, list(tree), f"config {parent}" if parent else "config")
    return tree[key]


# Rules that types alone do not express.


def check(c: ConfigDict) -> None:
    """Checks the range of every number and the fields with few allowed values.

    Raises:
      ValueError: with the key, the value and what is allowed.
    """
    profile.steps_of(c.profile)
    numbers = dict(_numbers(c))
    for key, number in numbers.items():
        if not abs(number) < 2**63:
            raise ValueError(f"{key}={number} is not a number to compute with.")
    for key, choices in CHOICES.items():
        check_name(str(functools.reduce(getitem, key.split("."), c)), choices, key)
    for key in POSITIVE:
        if not numbers[key] > 0:
            raise ValueError(f"{key}={numbers[key]}: must be above 0.")
    for key in NOT_NEGATIVE:
        if not numbers[key] >= 0:
            raise ValueError(f"{key}={numbers[key]}: must be 0 or more.")
    if c.optim.lr_end_scaling == "peak" and c.optim.lr_end > 1:
        raise ValueError(
            f"optim.lr_end={c.optim.lr_end}: must be a share from 0 to 1 of the peak "
            "rate, or a rate with optim.lr_end_scaling=none."
        )


def _numbers(c: ConfigDict, prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """(key, number) for every number of a config."""
    for key, value in c.items():
        if isinstance(value, ConfigDict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{key}", value


def check_batch(c: ConfigDict, devices: int, processes: int, images: int) -> None:
    """Checks the batch size against the devices and the data set.

    Args:
      devices: number of devices, over which each microbatch must divide.
      processes: number of processes, for the message.
      images: n, the size of the training split, which a batch must not exceed.

    Raises:
      ValueError: with the nearest batch size that fits.
    """
    batch_size, parts = c.data.batch_size, c.optim.microbatches
    multiple = devices * parts
    if batch_size % multiple:
        below = batch_size // multiple * multiple
        nearest = f"{below} or {below + multiple}" if below else f"{multiple}"
        also = "" if parts == 1 else f" and optim.microbatches={parts}"
        raise ValueError(
            f"data.batch_size={batch_size} does not divide over {devices} devices "
            f"(in {processes} processes){also}; the nearest that does is {nearest}."
        )
    if batch_size > images:
        raise ValueError(
            f"data.batch_size={batch_size} is larger than the data set of {images} "
            "images; no epoch would hold a whole batch. With data.shrink_batch=true it "
            f"is halved to {shrunk(batch_size, images)}."
        )


def shrunk(batch_size: int, images: int) -> int:
    """The batch size, halved until it is at most the number of images."""
    while batch_size > max(images, 1):
        batch_size //= 2
    return batch_size
