"""From picture files to views, on the host.

Every number of a view is a hash of (seed, epoch, index, view), never the state of a
generator: any process can make any view of any step. A picture is decoded once, each
view is cut out and resized alone (`crop`), and a chunk of views is then coloured
together (`colour`), because at 32 pixels an operation costs more than its arithmetic.

Colour on the host is rounded to uint8 after everything, colour on the device after the
crop and nowhere else. Measured differences of the pixels that the encoder gets, in
[0, 1], additive then multiplicative brightness (a level is 1/255 = 0.0039):

| pictures | maximum | 99.9th percentile | mean |
|---|---|---|---|
| embedded, 32 pixels, s = 0.5, no blur | .075, .086 | .0061, .0065 | .0010, .0011 |
| photographs, 224 pixels, s = 1, blur | .089, .062 | .0066, .0077 | .0008, .0010 |

The mean is that of rounding. The maxima come from the overshoot of the bicubic resize,
which is clipped before the device gets to see it.
"""

import numpy as np

from simclr_jax.data.hash import GOLDEN, mix
from simclr_jax.data.tensorflow import tf

GREY = (0.2989, 0.5870, 0.1140)

_CROP, _COLOUR, _BATCH = 0, 1, 2  # streams, so that no two draws share a key


def _bits(count, *key):
    """Random uint64 [n, count] of a key of integers and int arrays [n]."""
    h = np.zeros(1, np.uint64)
    for part in key:
        part = np.atleast_1d(part).astype(np.uint64)  # arrays wrap, scalars warn
        h = mix(h ^ mix(part + GOLDEN))
    return mix(h[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN)


def _uniform(count, *key):
    """Random float32 [n, count] in [0, 1), multiples of 2^-24."""
    return (_bits(count, *key) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def crop_keys(views: int, seed: int, epoch: int, index):
    """Keys of the crop windows.

    Args:
      views: V, how many views.
      seed: of the run.
      epoch: epoch of these pictures.
      index: int64 [N], their numbers in the data set.

    Returns:
      int64 [N, V, 2].
    """
    keys = [_bits(2, _CROP, seed, epoch, index, v) for v in range(views)]
    return np.stack(keys, 1).view(np.int64)


def draw(views, seed: int, epoch, step, index) -> tuple[dict, ...]:
    """Draws everything of the views except their windows.

    Args:
      views: V single views (see `recipes.expand`).
      seed: of the run.
      epoch: of these pictures; an integer or int64 [N].
      step: of their batch, likewise; only `blur_sigma = "batch"` reads it.
      index: int64 [N], numbers of the pictures in the data set.

    Returns:
      One dict a view, of arrays with N rows: flip, jitter, grey, blur, solarise bool
      [N]; order int32 [N, 4], the operation (0 brightness, 1 contrast, 2 saturation,
      3 hue) of each slot; factors float32 [N, 4], by operation, the hue in turns;
      sigma float32 [N] in pixels.
    """
    return tuple(
        _draw(view, v, seed, epoch, step, index) for v, view in enumerate(views)
    )


def _draw(view, v, seed, epoch, step, index):
    u = _uniform(14, _COLOUR, seed, epoch, index, v)
    if view.blur_sigma == "batch":
        u[:, 9] = _uniform(1, _BATCH, seed, step, v)[:, 0]

    def between(low, high, column):
        return np.float32(low) + np.float32(high - low) * u[:, column]

    b, c, s, h = view.brightness, view.contrast, view.saturation, view.hue
    if view.brightness_kind == "additive":
        brightness = between(-b, b, 5)
    else:
        brightness = between(max(0.0, 1 - b), 1 + b, 5)
    others = (between(1 - c, 1 + c, 6), between(1 - s, 1 + s, 7), between(-h, h, 8))
    return {
        "flip": u[:, 0] < view.flip,
        "jitter": u[:, 1] < view.jitter,
        "grey": u[:, 2] < view.grey,
        "blur": u[:, 3] < view.blur,
        "solarise": u[:, 4] < view.solarise,
        "factors": np.stack((brightness, *others), 1),
        "sigma": between(view.sigma[0], view.sigma[1], 9),
        "order": np.argsort(u[:, 10:], axis=1).astype(np.int32),
    }


def decode(data):
    """Decodes a JPEG, PNG, GIF (first frame), BMP or WebP file, told by its bytes.

    Args:
      data: string [], or uint8 [H, W, 3], which is a picture already.

    Returns:
      uint8 [H, W, 3], not rotated by EXIF, as in the released pipelines.
    """
    if data.dtype == tf.uint8:
        return data
    image = tf.io.decode_image(data, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def window(shape, key, view):
    """Draws a crop, spec by the sampler's name in `view.crop`.

    Args:
      shape: int32 [3], of the picture.
      key: int64 [2].
      view: a `recipes.View`.

    Returns:
      (begin, size): int32 [3] each, as `tf.slice` wants them.
    """
    if view.crop == "inception_log":
        return _inception_log(shape, key, view)
    # The object to cover is the whole picture: no crop falls below a tenth of it.
    begin, size, _ = tf.raw_ops.StatelessSampleDistortedBoundingBox(
        image_size=shape,
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.1,
        seed=key,
        aspect_ratio_range=view.aspect,
        area_range=view.area,
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return begin, size


def _inception_log(shape, key, view):
    """BYOL's sampler: log-uniform aspect, sides cut to the picture's, no retries."""
    u = tf.random.stateless_uniform([4], key)
    side = tf.cast(shape[:2], tf.float32)
    area = side[0] * side[1] * (view.area[0] + (view.area[1] - view.area[0]) * u[0])
    low, high = np.log(view.aspect)
    root = tf.exp((low + (high - low) * u[1]) / 2)  # root of the aspect
    size = tf.round(tf.sqrt(area) * tf.stack([1 / root, root]))
    size = tf.clip_by_value(size, 1.0, side)
    begin = tf.minimum(tf.floor(u[2:] * (side - size + 1)), side - size)
    begin, size = tf.cast(begin, tf.int32), tf.cast(size, tf.int32)
    return tf.concat([begin, [0]], 0), tf.concat([size, [3]], 0)


def resize(image, size: int):
    """Bicubic without antialias, half-pixel centres: uint8 [H, W, 3] -> float32.

    Returns:
      [size, size, 3], around 0 to 255: a cubic overshoots, and nothing clips it here.
    """
    pixels = tf.cast(image, tf.float32)[None]  # the kernel is slower on uint8
    return tf.raw_ops.ResizeBicubic(
        images=pixels, size=[size, size], half_pixel_centers=True
    )[0]


def crop(image, key, view):
    """Cuts one view out of uint8 [H, W, 3]: float32 [S, S, 3] around 0 to 255."""
    return resize(tf.slice(image, *window(tf.shape(image), key, view)), view.size)


def centre(image, size: int):
    """The evaluation's picture, SimCLR's: central 7/8 of the shorter side, resized.

    At 32 pixels and below nothing is cut, and only a picture of another size is
    resized.

    Args:
      image: uint8 [H, W, 3].
      size: S, side of the result.

    Returns:
      uint8 [S, S, 3].
    """
    shape = tf.shape(image)[:2]
    if size > 32:
        shorter = tf.cast(tf.reduce_min(shape), tf.float32)
        side = tf.maximum(tf.cast(tf.round(0.875 * shorter), tf.int32), 1)
        begin = (shape - side + 1) // 2
        image = tf.slice(image, [*tf.unstack(begin), 0], [side, side, 3])
        return to_uint8(resize(image, size))
    fits = tf.reduce_all(shape == size)
    image = tf.cond(fits, lambda: image, lambda: to_uint8(resize(image, size)))
    return tf.ensure_shape(image, [size, size, 3])


def to_uint8(x):
    """Rounds float32 around 0 to 255 to uint8."""
    return tf.cast(tf.clip_by_value(x, 0.0, 255.0) + 0.5, tf.uint8)


def colour(x, draws, view):
    """Flip, jitter, grey, blur and solarise, as `simclr_jax.colour.colour` does them.

    Args:
      x: float32 [N, S, S, 3] around 0 to 1, overshoot of the resize included.
      draws: of this view, as `draw` gives them.
      view: a `recipes.View`.

    Returns:
      float32 [N, S, S, 3] in [0, 1].
    """
    size = view.size
    if view.flip > 0:
        x = _where_rows(draws["flip"], lambda y: tf.reverse(y, [2]), x)
    # Planes, so that all arithmetic runs over long contiguous rows.
    x = tf.reshape(tf.transpose(x, [0, 3, 1, 2]), [-1, 3, size * size])
    if view.jitter > 0:
        x = _jitter(x, draws, view)
    if view.grey > 0:
        x = _where_rows(draws["grey"], _drop_colour, x)
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
    branch = tf.cast(chosen, tf.int32)
    places = tf.dynamic_partition(tf.range(tf.shape(x)[0]), branch, 2)
    others, mine = tf.dynamic_partition(x, branch, 2)
    rows = [tf.gather(row, places[1]) for row in rows]
    return _stitch(places, [others, f(mine, *rows)], x)


def _stitch(places, parts, x):
    return tf.reshape(tf.dynamic_stitch(places, parts), tf.shape(x))


def _jitter(x, draws, view):
    """Each picture meets its own operation in each of four slots, then a clip."""
    first = _brighten if view.brightness_kind == "additive" else _multiply
    operations = (first, _contrast, _saturation, _hue)
    rows = tf.range(tf.shape(x)[0])
    for slot in range(4):
        # Rows without jitter go to a fifth group, which nothing happens to.
        group = tf.where(draws["jitter"], draws["order"][:, slot], 4)
        places = tf.dynamic_partition(rows, group, 5)
        parts = tf.dynamic_partition(x, group, 5)
        factors = tf.dynamic_partition(draws["factors"], group, 5)
        done = [
            _clip(f(parts[i], factors[i][:, i, None])) for i, f in enumerate(operations)
        ]
        x = _stitch(places, [*done, parts[4]], x)
    return x


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


def _drop_colour(x):
    r, g, b = tf.unstack(x, axis=1)
    grey = GREY[0] * r + GREY[1] * g + GREY[2] * b
    return tf.stack([grey] * 3, 1)


def _blur(x, draws, view):
    """Blurs the chosen rows by two banded matrices; the border fades, as released."""
    size, radius = view.size, view.taps // 2

    def both_ways(y, sigma):
        apart = tf.range(size)[:, None] - tf.range(size)
        distance = tf.cast(apart, tf.float32)
        scale = -0.5 / sigma[:, None, None] ** 2
        taps = tf.exp(scale[:, 0] * tf.range(-radius, radius + 1.0) ** 2)
        total = tf.reduce_sum(taps, 1)[:, None, None]
        band = tf.exp(scale * distance**2) / total
        band = tf.where(tf.abs(apart) <= radius, band, 0.0)[:, None]
        y = tf.reshape(y, [-1, 3, size, size])
        y = band @ (y @ band)  # a band is symmetric
        return tf.reshape(_clip(y), [-1, 3, size * size])

    return _where_rows(draws["blur"], both_ways, x, draws["sigma"])
