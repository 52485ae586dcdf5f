"""After the crop, on the host: flip, rotation, jitter, grey, blur, solarise.

The same arithmetic as on the device, from the same draws; `augment_device` gives the
differences. An operation processes only the rows for which it was drawn; for a single
image, a branch skips the operation without a copy.

PIL's colours are computed in float, too. torchvision on PIL rounds to uint8 after every
operation, mostly down, rotates the hue in 256 steps and blurs by three box filters.
Measured on photographs of 224 pixels, `moco_v2`, in levels of 1/255: its views are
darker by 1.1 on average, and differ by 1.2 on average and 7 at the 99.9th percentile.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from simclr_jax.data import colour_ops, resizing
from simclr_jax.data.colour_ops import BRIGHTNESS, CONTRAST, HUE, NONE, SATURATION
from simclr_jax.data.tensorflow import tf
from simclr_jax.data.view import View

STRIP = 56  # approximate number of rows or columns that one product blurs


def apply_colour(x: Any, draws: Mapping[str, Any], view: View) -> Any:
    """All operations after the crop, as `augment_device.apply_colour` does them.

    Args:
      x: float32 [N, S, S, 3] around 0 to 1, overshoot of the resize included.
      draws: of this view, as `augment.draw` returns them.
      view: with S as its size.

    Returns:
      float32 [N, S, S, 3] in [0, 1].
    """
    return tf.transpose(_coloured_planes(x, draws, view), [0, 2, 3, 1])


def colour_crops(x: Any, draws: Mapping[str, Any], view: View) -> Any:
    """The same from crops, float32 around 0 to 255, to uint8."""
    x = resizing.to_uint8(255 * _coloured_planes(x / 255, draws, view))
    return tf.transpose(x, [0, 2, 3, 1])  # of bytes, which is faster than of floats


def _coloured_planes(x, draws, view):
    """[N, S, S, 3] -> [N, 3, S, S]: all arithmetic runs over long contiguous rows."""
    size, rows = view.size, x.shape[0] or -1
    x = tf.stack(tf.unstack(x, 3, axis=3), 1)  # faster than a transpose
    if view.flip > 0:
        x = _apply_to_rows(draws["flip"], lambda y: tf.reverse(y, [3]), x)
    if view.rotation > 0:
        x = _rotate(x, draws["quarters"])
    x = tf.reshape(x, [rows, 3, size * size])
    for step in colour_ops.steps(view):
        x = _STEPS[step](x, draws, view)
    return tf.reshape(x, [-1, 3, size, size])


def _clip(x):
    return tf.clip_by_value(x, 0.0, 1.0)


def _apply_to_rows(selected, f, x, *rows):
    """Applies f to the selected rows of x and of `rows`, further arguments of f."""
    if x.shape[0] == 1:
        result = tf.cond(selected[0], lambda: f(x, *rows), lambda: x)
        return tf.ensure_shape(result, x.shape)
    group = tf.cast(selected, tf.int32)
    positions = tf.dynamic_partition(tf.range(tf.shape(x)[0]), group, 2)
    unchanged, inputs = tf.dynamic_partition(x, group, 2)
    rows = [tf.gather(row, positions[1]) for row in rows]
    return _stitch(positions, [unchanged, f(inputs, *rows)], x)


def _stitch(positions, parts, x):
    return tf.reshape(tf.dynamic_stitch(positions, parts), tf.shape(x))


def _rotate(x, quarters):
    """Rotates x [n, 3, S, S]: first by 180 degrees, and then by 90."""
    x = _apply_to_rows(quarters >= 2, lambda y: tf.reverse(y, [2, 3]), x)
    odd = quarters % 2 == 1
    return _apply_to_rows(
        odd, lambda y: tf.reverse(tf.transpose(y, [0, 1, 3, 2]), [2]), x
    )


def _jitter(x, draws, view):
    """Each image gets its own operation in each of four slots, then a clip."""
    operations = _operations(view)
    for slot in range(4):
        group = tf.where(draws["jitter"], draws["order"][:, slot], NONE)
        x = _apply_by_group(group, operations, x, draws["factors"])
    return x


def _operations(view) -> list[Callable]:
    """(x, factors) -> x of every operation, by its number."""
    pil = view.colours == "pil"
    functions = {
        BRIGHTNESS: _add if view.brightness_mode == "additive" else _multiply,
        CONTRAST: _pil_contrast if pil else _contrast,
        SATURATION: _pil_saturation if pil else _saturation,
        HUE: _hue,
    }

    def clipped(i):
        return lambda x, factors: _clip(functions[i](x, factors[:, i, None]))

    return [*map(clipped, range(NONE)), lambda x, factors: x]


def _apply_by_group(group, operations, x, factors):
    """Applies to each row the operation of its group."""
    if x.shape[0] == 1:
        branches = [functools.partial(f, x, factors) for f in operations]
        return tf.switch_case(group[0], branches)
    count = len(operations)
    positions = tf.dynamic_partition(tf.range(tf.shape(x)[0]), group, count)
    parts = tf.dynamic_partition(x, group, count)
    factors = tf.dynamic_partition(factors, group, count)
    arguments = zip(operations, parts, factors, strict=True)
    return _stitch(positions, [f(part, factor) for f, part, factor in arguments], x)


# Operations of the jitter: x [n, 3, S * S], and a factor or shift [n, 1].


def _add(x, shift):
    return x + shift[:, None]


def _multiply(x, factor):
    return x * factor[:, None]


def _contrast(x, factor):
    """Stretches each channel around its own mean."""
    mean = tf.reduce_mean(x, 2, keepdims=True)
    return colour_ops.blend(x, mean, factor[:, None])


def _saturation(x, factor):
    planes = tf.unstack(x, axis=1)
    return tf.stack(colour_ops.scale_saturation(tf, planes, factor), 1)


def _hue(x, turns):
    planes = tf.unstack(x, axis=1)
    return tf.stack(colour_ops.rotate_hue(tf, planes, turns, _clip), 1)


def _pil_contrast(x, factor):
    """Blends with the mean of the grey image."""
    mean = tf.reduce_mean(_grey(x, "pil"), 2, keepdims=True)
    return colour_ops.blend(x, mean, factor[:, None])


def _pil_saturation(x, factor):
    """Blends with the grey image."""
    return colour_ops.blend(x, _grey(x, "pil"), factor[:, None])


def _grey(x, colours):
    """[n, 3, S * S] -> [n, 1, S * S]."""
    return colour_ops.luma(tf.unstack(x[:, :, None], axis=1), colours)


def _drop_colour(x, draws, view):
    def grey(y):
        return tf.tile(_grey(y, view.colours), [1, 3, 1])

    return _apply_to_rows(draws["grey"], grey, x)


def _solarise(x, draws, view):
    return _apply_to_rows(draws["solarise"], lambda y: tf.where(y < 0.5, y, 1 - y), x)


def _blur(x, draws, view):
    """Blurs the selected rows by products with a banded matrix.

    Beyond the border, pixels are 0 as in the released code, or with PIL's colours the
    last pixel is repeated, as in PIL. A banded matrix is mostly zeros, so an image is
    cut into strips that are all multiplied by the same small matrix.
    """
    size, radius = view.size, view.taps // 2
    strip = -(-size // max(1, size // STRIP))
    offsets = range(0, size, strip)
    after = len(offsets) * strip - size + radius  # pixels beyond the image

    def widen(y, axis):
        if view.colours == "pil":
            inside = tf.clip_by_value(tf.range(-radius, size + after), 0, size - 1)
            return tf.gather(y, inside, axis=axis)
        return tf.pad(y, [[radius, after] if i == axis else [0, 0] for i in range(4)])

    def blurred(y, sigma):
        band = _band(sigma, strip, radius)
        y = widen(tf.reshape(y, [-1, 3, size, size]), 2)
        strips = [y[:, :, i : i + strip + 2 * radius] for i in offsets]
        y = tf.concat([band @ part for part in strips], 2)[:, :, :size]
        y = widen(y, 3)
        strips = [y[..., i : i + strip + 2 * radius] for i in offsets]
        products = [tf.matmul(part, band, transpose_b=True) for part in strips]
        y = tf.concat(products, 3)[..., :size]
        return tf.reshape(_clip(y), [-1, 3, size * size])

    return _apply_to_rows(draws["blur"], blurred, x, draws["sigma"])


def _band(sigma, strip, radius):
    """Gaussian weights float32 [n, 1, strip, strip + 2 radius]; each row adds to 1."""
    distance = tf.range(strip)[:, None] + radius - tf.range(strip + 2 * radius)
    scale = -0.5 / sigma[:, None, None] ** 2
    taps = tf.exp(scale[:, 0] * tf.range(-radius, radius + 1.0) ** 2)
    total = tf.reduce_sum(taps, 1)[:, None, None]
    band = tf.exp(scale * tf.cast(distance, tf.float32) ** 2) / total
    return tf.where(tf.abs(distance) <= radius, band, 0.0)[:, None]


_STEPS = {
    "jitter": _jitter,
    "grey": _drop_colour,
    "clip": lambda x, draws, view: _clip(x),
    "blur": _blur,
    "solarise": _solarise,
}
