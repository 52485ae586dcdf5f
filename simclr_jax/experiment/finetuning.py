"""The part of a run's network that fine-tuning trains."""

import jax
import jax.numpy as jnp

from simclr_jax.evaluate.finetune import Network
from simclr_jax.experiment import build
from simclr_jax.state import TrainState
from simclr_jax.tree import same_paths

LAYERS = {"h": 0, "z": -1}  # of the projection head, by the name of the feature


def shortened(run: build.Run, state: TrainState, size: int, feature: str) -> Network:
    """The network up to a feature, with only the arrays that the feature depends on.

    Args:
      state: whose branch `Method.keep` is used.
      size: side of the pictures, in pixels.
      feature: "h", "z", or a layer of the projection head, "head1", "head2", ...

    Raises:
      ValueError: it is none of them, or the method's network cannot be shortened.
    """
    network = run.method.network
    heads = {f"head{i}": i for i in range(1, network.head_layers)}
    layers = LAYERS | heads
    if feature not in layers or network.shortened is None:
        raise ValueError(
            f"finetune begins at {', '.join(layers)}, where the method's network has "
            f"`shortened`; got {feature}."
        )
    layer = layers[feature]
    net = network.shortened(layer)
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    shapes = jax.eval_shape(net.init, jax.random.key(0), (image,))
    params, stats = map(same_paths, run.method.kept(state), shapes)

    def features(outputs):
        return outputs.heads["projector"] if layer else outputs.h

    def apply(params, stats, views, rng):
        outputs, stats = net.apply(params, stats, views, rng)
        return features(outputs), stats

    def encode(params, stats, images):
        return features(net.encode(params, stats, images))

    width = jax.eval_shape(encode, *shapes, image).shape[-1]
    return Network(apply, encode, params, stats, width)
