"""After the crop, on the device: flip, rotation, jitter, grey, blur, solarise.

The same arithmetic as on the host (`augment_host.apply_colour`) from the same draws.
Results differ by at most 1e-6; after the blur by 1e-5 on a TPU and by a ninth of a
level (1/255) on a GPU. No operation mixes images, so a batch that is split by rows
needs no communication.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from simclr_jax.batch import Batch
from simclr_jax.data import colour_ops, crop_device
from simclr_jax.data.colour_ops import BRIGHTNESS, CONTRAST, HUE, NONE, SATURATION
from simclr_jax.data.view import View


def prepare(views: Sequence[View]) -> Callable[[Batch], Batch]:
    """Returns the function that makes the views of a batch inside the train step.

    Args:
      views: the recipe's, V of them with their copies.

    Returns:
      batch -> batch: `views`, uint8 [N, S, S, 3], become float32 in [0, 1], or are
      cropped from `picture`, uint8 [N, H, W, 3], if the batch has it. The result has
      neither `draws` nor `picture`; its other fields are unchanged.
    """
    single = [view for view in views for _ in range(view.copies)]

    def prepare_batch(batch: Batch) -> Batch:
        draws = batch.draws
        if batch.picture is None:
            crops = [x.astype(jnp.float32) / 255 for x in batch.views]
        else:
            crops = [
                crop_device.crop(batch.picture, drawn["window"], view)
                for drawn, view in zip(draws, single, strict=True)
            ]
        arguments = zip(crops, draws, single, strict=True)
        coloured = tuple(apply_colour(x, drawn, view) for x, drawn, view in arguments)
        return batch.replace(views=coloured, draws=None, picture=None)

    return prepare_batch


def apply_colour(x: jax.Array, draws: Mapping[str, jax.Array], view: View) -> jax.Array:
    """Flips, rotates and colours a batch of one view, by `colour_ops.steps`.

    Args:
      x: float32 [N, S, S, 3] around 0 to 1.
      draws: of this view, as `augment.draw` returns them.
      view: static; operations of probability 0 are not compiled.

    Returns:
      float32 [N, S, S, 3] in [0, 1].
    """
    if view.flip > 0:
        x = jnp.where(_spread(draws["flip"])[..., None], x[:, :, ::-1], x)
    if view.rotation > 0:
        x = _rotate(x, _spread(draws["quarters"])[..., None])
    rgb = tuple(x[..., c] for c in range(3))  # a last axis of 3 wastes vector lanes
    for step in colour_ops.steps(view):
        rgb = _STEPS[step](rgb, draws, view)
    return jnp.stack(rgb, -1)


def _spread(row):
    """[N] -> [N, 1, 1], to broadcast with planes [N, H, W]."""
    return row[:, None, None]


def _rotate(x, quarters):
    """Rotates x [N, S, S, 3]: first by 180 degrees, and then by 90."""
    x = jnp.where(quarters >= 2, x[:, ::-1, ::-1], x)
    return jnp.where(quarters % 2 == 1, jnp.rot90(x, axes=(1, 2)), x)


def _where(condition, yes, no):
    return tuple(jnp.where(condition, a, b) for a, b in zip(yes, no, strict=True))


def _clip(rgb):
    return tuple(jnp.clip(p, 0, 1) for p in rgb)


def _jitter(rgb, draws, view):
    """The four slots, one after the other; images without jitter are unchanged.

    A loop on CPUs: if it is unrolled, the compiled program computes each slot again for
    every plane of the next one and is 40 to 200 times slower. Unrolled elsewhere: on a
    TPU a loop would write to main memory between the slots.
    """

    def body(rgb, operation):
        return _slot(rgb, operation, draws["factors"], view), None

    def slots(rgb, order, *, unroll):
        return jax.lax.scan(body, rgb, order, unroll=unroll)[0]

    loop, unrolled = partial(slots, unroll=1), partial(slots, unroll=4)
    order = jnp.where(draws["jitter"], draws["order"].T, NONE)
    return jax.lax.platform_dependent(rgb, order, cpu=loop, default=unrolled)


def _slot(rgb, operation, factors, view):
    """Computes all four operations and selects one for each image, clipped."""
    operation = _spread(operation)
    b, c, s, h = (_spread(factors[:, i]) for i in range(4))
    pil = view.colours == "pil"
    grey = _grey(rgb, view)
    if pil:
        pairs = zip(rgb, grey, strict=True)
        saturation = tuple(colour_ops.blend(p, g, s) for p, g in pairs)
    else:
        saturation = colour_ops.scale_saturation(jnp, rgb, s)
    # Brightness and contrast are factor * p + shift: selected before, by image.
    bright, contrast, none = (operation == i for i in (BRIGHTNESS, CONTRAST, NONE))
    if view.brightness_mode == "additive":
        factor, shift = 1, jnp.where(bright, b, 0)
    else:
        factor, shift = jnp.where(bright, b, 1), 0
    factor = jnp.where(contrast, c, factor)
    means = _means(grey if pil else rgb)
    shifts = (jnp.where(contrast, (1 - c) * mean, shift) for mean in means)
    stretched = (p * factor + shift for p, shift in zip(rgb, shifts, strict=True))
    hue = _where(operation == HUE, _hue(rgb, h), stretched)
    result = _where(operation == SATURATION, saturation, hue)
    low, high = jnp.where(none, -jnp.inf, 0), jnp.where(none, jnp.inf, 1)
    return tuple(jnp.clip(p, low, high) for p in result)


def _means(rgb):
    """The mean [N, 1, 1] of each plane; one operation sums all three."""

    def add(a, b):
        return tuple(x + y for x, y in zip(a, b, strict=True))

    columns = jax.lax.reduce(rgb, (jnp.zeros(()),) * 3, add, (1,))
    return tuple(_spread(jnp.mean(sums, 1) / rgb[0].shape[1]) for sums in columns)


def _grey(rgb, view):
    """Three planes of luma."""
    return (colour_ops.luma(rgb, view.colours),) * 3


def _hue(rgb, turns):
    return colour_ops.rotate_hue(jnp, rgb, turns, lambda x: jnp.clip(x, 0, 1))


def _drop_colour(rgb, draws, view):
    return _where(_spread(draws["grey"]), _grey(rgb, view), rgb)


def _solarise(rgb, draws, view):
    inverted = tuple(jnp.where(p < 0.5, p, 1 - p) for p in rgb)
    return _where(_spread(draws["solarise"]), inverted, rgb)


def _blur(rgb, draws, view):
    """Two products with a banded matrix for each image.

    Beyond the border, pixels are 0 as in the released code, or with PIL's colours the
    last pixel is repeated, as in PIL.
    """
    side, radius = rgb[0].shape[1], view.taps // 2
    margin = radius if view.colours == "pil" else 0
    distance = jnp.arange(side)[:, None] - jnp.arange(-margin, side + margin)
    scale = -0.5 / draws["sigma"][:, None] ** 2
    total = jnp.sum(jnp.exp(scale * jnp.arange(-radius, radius + 1) ** 2), 1)
    band = jnp.exp(scale[..., None] * distance**2) / _spread(total)
    band = jnp.where(jnp.abs(distance) <= radius, band, 0)

    def product(spec, a, b):
        # Three bfloat16 products on a TPU, or one TF32 product on a GPU. Their errors
        # are below 1.2e-5 and 4.4e-4 (emulated in float64); a level is 1/255.
        return jnp.einsum(spec, a, b, precision="high")

    ends = ((0, 0), (margin, margin), (margin, margin))
    wide = (jnp.pad(p, ends, mode="edge") for p in rgb)
    rows = (product("nij,njk->nik", band, p) for p in wide)
    blurred = _clip(tuple(product("nik,njk->nij", p, band) for p in rows))
    return _where(_spread(draws["blur"]), blurred, rgb)


_STEPS = {
    "jitter": _jitter,
    "grey": _drop_colour,
    "clip": lambda rgb, draws, view: _clip(rgb),
    "blur": _blur,
    "solarise": _solarise,
}
