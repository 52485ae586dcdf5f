"""The colours of a chunk of views on the host: flip, jitter, grey, blur, solarise.

The same arithmetic as on the device, from the same draws; `augment_device` says how
nearly. Here only the rows that an operation is for go through it; a single picture is
not even copied, but branched around it.

PIL's colours are computed in float too. torchvision on PIL rounds to uint8 after every
operation, mostly down, turns the hue in 256 steps and blurs by three boxes. Measured on
photographs of 224 pixels, `moco_v2`, in levels of 255: its views are darker by 1.1 in
the mean, and differ by 1.2 in the mean and by 7 at the 99.9th percentile.
"""

import functools

from simclr_jax.data.tensorflow import tf

STRIP = 56  # about how many rows or columns are blurred by one product
GREY = {"tf": (0.2989, 0.5870, 0.1140), "pil": (0.299, 0.587, 0.114)}


def colour(x, draws, view):
    """Flip, jitter, grey, blur and solarise, as `augment_device.colour` does them.

    Args:
      x: float32 [N, S, S, 3] around 0 to 1, overshoot of the resize included.
      draws: of this view, as `augment.draw` gives them.
      view: a `view.View`.

    Returns:
      float32 [N, S, S, 3] in [0, 1].
    """
    size = view.size
    if view.flip > 0:
        x = _where_rows(draws["flip"], lambda y: tf.reverse(y, [2]), x)
    # Planes, so that all arithmetic runs over long contiguous rows.
    rows = x.shape[0] or -1
    x = tf.reshape(tf.transpose(x, [0, 3, 1, 2]), [rows, 3, size * size])
    pair = (_drop_colour, _jitter) if view.grey_first else (_jitter, _drop_colour)
    for operation in pair:
        x = operation(x, draws, view)
    x = _clip(x)
    if view.blur > 0:
        x = _blur(x, draws, view)
    if view.solarise > 0:
        x = _where_rows(draws["solarise"], lambda y: tf.where(y < 0.5, y, 1 - y), x)
    return tf.transpose(tf.reshape(x, [-1, 3, size, size]), [0, 2, 3, 1])


def _clip(x):
    return tf.clip_by_value(x, 0.0, 1.0)


def _where_rows(chosen, f, x, *rows):
    """Applies f to the chosen rows of x alone; `rows` are more arguments of f."""
    if x.shape[0] == 1:
        done = tf.cond(chosen[0], lambda: f(x, *rows), lambda: x)
        return tf.ensure_shape(done, x.shape)
    branch = tf.cast(chosen, tf.int32)
    places = tf.dynamic_partition(tf.range(tf.shape(x)[0]), branch, 2)
    others, mine = tf.dynamic_partition(x, branch, 2)
    rows = [tf.gather(row, places[1]) for row in rows]
    return _stitch(places, [others, f(mine, *rows)], x)


def _stitch(places, parts, x):
    return tf.reshape(tf.dynamic_stitch(places, parts), tf.shape(x))


def _jitter(x, draws, view):
    """Each picture meets its own operation in each of four slots, then a clip."""
    if view.jitter == 0:
        return x
    first = _brighten if view.brightness_kind == "additive" else _multiply
    pil = view.colours == "pil"
    stretches = (_pil_contrast, _pil_saturation) if pil else (_contrast, _saturation)

    def operate(i, f):
        return lambda x, factors: _clip(f(x, factors[:, i, None]))

    operations = [operate(*each) for each in enumerate((first, *stretches, _hue))]
    operations.append(lambda x, factors: x)  # of rows without jitter
    for slot in range(4):
        group = tf.where(draws["jitter"], draws["order"][:, slot], 4)
        x = _each_its_own(group, operations, x, draws["factors"])
    return x


def _each_its_own(group, operations, x, factors):
    """Applies to each row the operation of its group."""
    if x.shape[0] == 1:
        branches = [functools.partial(f, x, factors) for f in operations]
        return tf.switch_case(group[0], branches)
    count = len(operations)
    places = tf.dynamic_partition(tf.range(tf.shape(x)[0]), group, count)
    parts = tf.dynamic_partition(x, group, count)
    factors = tf.dynamic_partition(factors, group, count)
    done = [f(*each) for f, *each in zip(operations, parts, factors, strict=True)]
    return _stitch(places, done, x)


def _brighten(x, delta):
    return x + delta[:, None]


def _multiply(x, factor):
    return x * factor[:, None]


def _contrast(x, factor):
    """Stretches each channel around its own mean."""
    mean = tf.reduce_mean(x, 2, keepdims=True)
    return (x - mean) * factor[:, None] + mean


def _extremes(r, g, b):
    value = tf.maximum(tf.maximum(r, g), b)
    return value, value - tf.minimum(tf.minimum(r, g), b)


def _saturation(x, factor):
    """HSV's S times the factor, at most 1, without the way to HSV and back."""
    planes = tf.unstack(x, axis=1)
    value, chroma = _extremes(*planes)
    limit = tf.maximum(value, 0.0) / tf.maximum(chroma, 1e-30)  # 1 / S
    scale = tf.minimum(limit, factor)
    return tf.stack([value - scale * (value - p) for p in planes], 1)


def _hue(x, turns):
    """HSV's H plus `turns`, in closed form: three triangle waves of one angle."""
    r, g, b = tf.unstack(x, axis=1)
    value, chroma = _extremes(r, g, b)
    across = tf.where(value == r, g - b, tf.where(value == g, b - r, r - g))
    angle = across / tf.maximum(chroma, 1e-30)  # in sixths of a turn, 0 is red
    angle += tf.where(value == r, 0.0, tf.where(value == g, 2.0, -2.0))
    angle += 6 * turns
    angle -= 6 * tf.round(angle / 6)  # [-3, 3], the most exact range
    waves = (2 - tf.abs(angle), tf.abs(angle + 1) - 1, tf.abs(angle - 1) - 1)
    return tf.stack([value - chroma * (1 - _clip(wave)) for wave in waves], 1)


def _pil_contrast(x, factor):
    """Blends with the mean of the grey picture."""
    mean = tf.reduce_mean(_grey(x, "pil"), 2, keepdims=True)
    return (x - mean) * factor[:, None] + mean


def _pil_saturation(x, factor):
    """Blends with the grey picture."""
    grey = _grey(x, "pil")
    return (x - grey) * factor[:, None] + grey


def _grey(x, colours):
    r, g, b = tf.unstack(x[:, :, None], axis=1)
    weights = GREY[colours]
    return weights[0] * r + weights[1] * g + weights[2] * b


def _drop_colour(x, draws, view):
    if view.grey == 0:
        return x
    return _where_rows(
        draws["grey"], lambda y: tf.tile(_grey(y, view.colours), [1, 3, 1]), x
    )


def _blur(x, draws, view):
    """Blurs the chosen rows by banded matrices.

    The border fades, as released, or in PIL's way repeats its last pixel. A band is
    mostly zeros: a picture is cut into strips, which the same small matrix serves.
    """
    size, radius = view.size, view.taps // 2
    strip = -(-size // max(1, size // STRIP))
    begins = range(0, size, strip)
    after = len(begins) * strip - size + radius  # pixels beyond the picture

    def widen(y, axis):
        if view.colours == "pil":
            inside = tf.clip_by_value(tf.range(-radius, size + after), 0, size - 1)
            return tf.gather(y, inside, axis=axis)
        return tf.pad(y, [[radius, after] if i == axis else [0, 0] for i in range(4)])

    def both_ways(y, sigma):
        apart = tf.range(strip)[:, None] + radius - tf.range(strip + 2 * radius)
        scale = -0.5 / sigma[:, None, None] ** 2
        taps = tf.exp(scale[:, 0] * tf.range(-radius, radius + 1.0) ** 2)
        total = tf.reduce_sum(taps, 1)[:, None, None]
        band = tf.exp(scale * tf.cast(apart, tf.float32) ** 2) / total
        band = tf.where(tf.abs(apart) <= radius, band, 0.0)[:, None]
        y = widen(tf.reshape(y, [-1, 3, size, size]), 2)
        strips = [y[:, :, i : i + strip + 2 * radius] for i in begins]
        y = tf.concat([band @ part for part in strips], 2)[:, :, :size]
        y = widen(y, 3)
        strips = [y[..., i : i + strip + 2 * radius] for i in begins]
        done = [tf.matmul(part, band, transpose_b=True) for part in strips]
        y = tf.concat(done, 3)[..., :size]
        return tf.reshape(_clip(y), [-1, 3, size * size])

    return _where_rows(draws["blur"], both_ways, x, draws["sigma"])
