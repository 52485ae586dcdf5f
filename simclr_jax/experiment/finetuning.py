"""Fine-tuning of a saved run: the part of its network that is trained, and the task."""

import functools

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from simclr_jax.data.sources import Source
from simclr_jax.evaluate.finetune import Network, Task
from simclr_jax.experiment import build
from simclr_jax.state import TrainState
from simclr_jax.tree import same_paths

PROTOCOLS = ("finetune", "finetune_v2")


def task(
    c: ConfigDict, run: build.Run, state: TrainState, train: Source, test: Source
) -> Task:
    """What to fine-tune on, from the branch `Method.keep` of a state."""
    network = functools.partial(shortened, run, state, c.data.image_size)
    size, batch_size = c.data.image_size, c.evaluate.batch_size
    return Task(network, train, test, size, c.data.data_dir, batch_size)


def shortened(run: build.Run, state: TrainState, size: int, layer: int) -> Network:
    """The network up to a layer of the projection head, with only its arrays.

    Args:
      size: side of the pictures, in pixels.
      layer: k of 1 or more: the head's k-th layer; 0: h, -1: the whole head.

    Raises:
      ValueError: the head has no such layer, or cannot be shortened.
    """
    method = run.method
    if method.network.shortened is None:
        raise ValueError(
            "The method's network has no `shortened`, which models.network.network "
            "gives it: it cannot be fine-tuned."
        )
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    try:
        net = method.network.shortened(layer)
        shapes = jax.eval_shape(net.init, jax.random.key(0), (image,))
    except ValueError as error:
        raise ValueError(f"layer={layer}: {error}") from error
    params, stats = map(same_paths, method.kept(state), shapes)

    def features(outputs):
        return outputs.heads["projector"] if layer else outputs.h

    def apply(params, stats, views, rng):
        outputs, stats = net.apply(params, stats, views, rng)
        return features(outputs), stats

    def encode(params, stats, images):
        return features(net.encode(params, stats, images))

    width = jax.eval_shape(encode, *shapes, image).shape[-1]
    return Network(apply, encode, params, stats, width)


def result_name(settings: ConfigDict) -> str:
    """The name of a score, such as "h, 1%" or "layer 1, 10percent.txt"."""
    layer = settings.layer
    feature = {0: "h", -1: "z"}.get(layer, f"layer {layer}")
    return f"{feature}, {settings.labels.rpartition('/')[2]}"
