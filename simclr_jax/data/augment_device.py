"""The colours of a batch on the device: flip, jitter, grey, blur, solarise.

The same arithmetic as on the host (`augment_host.colour`), to 1e-6, from the
same draws; but for the blur, where a TPU is within 1e-5 and a GPU within a ninth of a
level of 255. Nothing here looks across pictures, so a batch that is sharded by rows
stays where it is.
"""

from functools import partial

import jax
import jax.numpy as jnp

from simclr_jax.batch import Batch
from simclr_jax.data.crop_device import cut

BRIGHTNESS, CONTRAST, SATURATION, HUE, NONE = range(5)
# red, green and blue in ITU-R 601's luma, as TensorFlow and as PIL round them
GREY = {"tf": (0.2989, 0.5870, 0.1140), "pil": (0.299, 0.587, 0.114)}


def prepare(views):
    """Returns the function that makes the views of a batch, for use in a step.

    Args:
      views: the recipe's (`data.view.View`), V of them with their copies.

    Returns:
      batch -> batch: `views`, uint8 [N, S, S, 3] each, become float32 in [0, 1], or are
      cut out of `picture`, uint8 [N, H, W, 3], where the batch has that; `draws` are
      used up; everything else passes through.
    """
    single = [view for view in views for _ in range(view.copies)]

    def colour_batch(batch: Batch) -> Batch:
        draws = batch.draws
        if batch.picture is None:
            cuts = [x.astype(jnp.float32) / 255 for x in batch.views]
        else:
            pairs = zip(draws, single, strict=True)
            cuts = [cut(batch.picture, drawn["window"], view) for drawn, view in pairs]
        drawn = zip(cuts, draws, single, strict=True)
        coloured = tuple(colour(x, numbers, view) for x, numbers, view in drawn)
        return batch.replace(views=coloured, draws=None, picture=None)

    return colour_batch


def colour(x, draws, view):
    """Colours a batch of one view, SimCLR appendix A in the released code's order.

    Args:
      x: float32 [N, H, W, 3] around 0 to 1.
      draws: arrays with N rows: flip, jitter, grey, blur, solarise bool [N]; order
        int32 [N, 4], the operation (0 brightness, 1 contrast, 2 saturation, 3 hue) of
        each slot; factors float32 [N, 4] by operation, the hue in turns; sigma float32
        [N] in pixels.
      view: static; what has probability 0 in it is not compiled.

    Returns:
      float32 [N, H, W, 3] in [0, 1].
    """
    d = {name: _spread(a) for name, a in draws.items() if a.ndim == 1}
    if view.flip > 0:
        x = jnp.where(d["flip"][..., None], x[:, :, ::-1], x)
    rgb = tuple(x[..., c] for c in range(3))  # planes: a last axis of 3 fills no lanes
    if view.grey > 0 and view.grey_first:
        rgb = _where(d["grey"], _grey(rgb, view), rgb)
    if view.jitter > 0:
        rgb = _jitter(rgb, draws, view)
    if view.grey > 0 and not view.grey_first:
        rgb = _where(d["grey"], _grey(rgb, view), rgb)
    rgb = _clip(rgb)
    if view.blur > 0:
        rgb = _where(d["blur"], _blur(rgb, draws["sigma"], view), rgb)
    if view.solarise > 0:
        inverted = tuple(jnp.where(p < 0.5, p, 1 - p) for p in rgb)
        rgb = _where(d["solarise"], inverted, rgb)
    return jnp.stack(rgb, -1)


def _spread(row):
    """[N] -> [N, 1, 1], against planes."""
    return row[:, None, None]


def _where(chosen, yes, no):
    return tuple(jnp.where(chosen, a, b) for a, b in zip(yes, no, strict=True))


def _clip(rgb):
    return tuple(jnp.clip(p, 0, 1) for p in rgb)


def _jitter(rgb, draws, view):
    """The four slots, one after the other, which leave pictures without jitter alone.

    On processors as a loop: from all slots in a row the compiler made a program that
    computes them anew for each plane of the next, 40 to 200 times slower. On a TPU the
    loop would go to main memory between the slots.
    """

    def one(rgb, which):
        return _slot(rgb, which, draws["factors"], view), None

    def slots(rgb, order, *, unroll):
        return jax.lax.scan(one, rgb, order, unroll=unroll)[0]

    loop, row = partial(slots, unroll=1), partial(slots, unroll=4)
    order = jnp.where(draws["jitter"], draws["order"].T, NONE)
    return jax.lax.platform_dependent(rgb, order, cpu=loop, default=row)


def _slot(rgb, which, factors, view):
    """All four operations, of which each picture keeps its own and is clipped."""
    which = _spread(which)
    b, c, s, h = (_spread(factors[:, i]) for i in range(4))
    pil = view.colours == "pil"
    grey = _grey(rgb, view)
    saturation = _blend(rgb, grey, s) if pil else _saturation(rgb, s)
    # Brightness and contrast are a factor and a shift: chosen before, not by pixel.
    bright, contrast, none = (which == i for i in (BRIGHTNESS, CONTRAST, NONE))
    if view.brightness_kind == "additive":
        factor, shift = 1, jnp.where(bright, b, 0)
    else:
        factor, shift = jnp.where(bright, b, 1), 0
    factor = jnp.where(contrast, c, factor)
    means = _means(grey if pil else rgb)
    shifts = (jnp.where(contrast, (1 - c) * mean, shift) for mean in means)
    stretched = (p * factor + shift for p, shift in zip(rgb, shifts, strict=True))
    own = _where(which == HUE, _hue(rgb, h), stretched)
    own = _where(which == SATURATION, saturation, own)
    low, high = jnp.where(none, -jnp.inf, 0), jnp.where(none, jnp.inf, 1)
    return tuple(jnp.clip(p, low, high) for p in own)


def _means(rgb):
    """[N, 1, 1] of each plane, the three summed by one operation."""

    def add(a, b):
        return tuple(x + y for x, y in zip(a, b, strict=True))

    columns = jax.lax.reduce(rgb, (jnp.zeros(()),) * 3, add, (1,))
    return tuple(_spread(jnp.mean(sums, 1) / rgb[0].shape[1]) for sums in columns)


def _grey(rgb, view):
    """Three planes of luma."""
    weights = GREY[view.colours]
    return (sum(weight * p for weight, p in zip(weights, rgb, strict=True)),) * 3


def _blend(rgb, others, factor):
    """From the others (factor 0) through the picture itself (1) and beyond."""
    return tuple((p - o) * factor + o for p, o in zip(rgb, others, strict=True))


def _extremes(rgb):
    value = jnp.maximum(jnp.maximum(*rgb[:2]), rgb[2])
    return value, value - jnp.minimum(jnp.minimum(*rgb[:2]), rgb[2])


def _saturation(rgb, factor):
    """HSV's S times the factor, at most 1, without the way to HSV and back."""
    value, chroma = _extremes(rgb)
    limit = jnp.maximum(value, 0) / jnp.maximum(chroma, 1e-30)  # 1 / S
    scale = jnp.minimum(limit, factor)
    return tuple(value - scale * (value - p) for p in rgb)


def _hue(rgb, turns):
    """HSV's H plus `turns`, in closed form: three triangle waves of one angle."""
    r, g, b = rgb
    value, chroma = _extremes(rgb)
    across = jnp.where(value == r, g - b, jnp.where(value == g, b - r, r - g))
    angle = across / jnp.maximum(chroma, 1e-30)  # in sixths of a turn, 0 is red
    angle += jnp.where(value == r, 0.0, jnp.where(value == g, 2.0, -2.0))
    angle += 6 * turns
    angle -= 6 * jnp.round(angle / 6)  # [-3, 3], the most exact range
    waves = (2 - jnp.abs(angle), jnp.abs(angle + 1) - 1, jnp.abs(angle - 1) - 1)
    return tuple(value - chroma * (1 - wave) for wave in _clip(waves))


def _blur(rgb, sigma, view):
    """Two products with a banded matrix a picture.

    The border fades, as released, or in PIL's way repeats its last pixel.
    """
    side, radius = rgb[0].shape[1], view.taps // 2
    margin = radius if view.colours == "pil" else 0
    apart = jnp.arange(side)[:, None] - jnp.arange(-margin, side + margin)
    scale = -0.5 / sigma[:, None] ** 2
    total = jnp.sum(jnp.exp(scale * jnp.arange(-radius, radius + 1) ** 2), 1)
    band = jnp.exp(scale[..., None] * apart**2) / _spread(total)
    band = jnp.where(jnp.abs(apart) <= radius, band, 0)

    def product(spec, a, b):
        # Three products of bfloat16 on a TPU, or one of TF32, for pixels that had 256
        # levels: emulated in float64, both ways are within 1.2e-5 and 4.4e-4.
        return jnp.einsum(spec, a, b, precision="high")

    ends = ((0, 0), (margin, margin), (margin, margin))
    wide = (jnp.pad(p, ends, mode="edge") for p in rgb)
    rows = (product("nij,njk->nik", band, p) for p in wide)
    return _clip(tuple(product("nik,njk->nij", p, band) for p in rows))
