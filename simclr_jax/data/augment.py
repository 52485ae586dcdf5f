"""From picture files to views, on the host.

Every random number of a view is a hash of (seed, epoch, index, view); no generator has
a state, so any process can make any view of any step. A picture is decoded once, each
view is cropped and resized by itself (`crop`), and several views are then coloured
together (`augment_host.apply_colour`), because at 32 pixels the call of an operation
costs more than its arithmetic.

With colour on the host the views are rounded to uint8 after all operations, with colour
on the device after the crop; small pictures, which the device crops too
(`decoded_cache`), are not rounded. Measured differences of the encoder's input, in
[0, 1], between colour on the device and on the host, with additive and then with
multiplicative brightness (a level is 1/255 = 0.0039), all cropped on the host:

| pictures | maximum | 99.9th percentile | mean |
|---|---|---|---|
| embedded, 32 pixels, s = 0.5, no blur | .075, .086 | .0061, .0065 | .0010, .0011 |
| photographs, 224 pixels, s = 1, blur | .089, .062 | .0066, .0077 | .0008, .0010 |

The mean is due to rounding. The maxima come from the overshoot of the bicubic resize,
which is clipped before it is sent to the device.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from simclr_jax.data import resizing
from simclr_jax.data.hash import GOLDEN, mix
from simclr_jax.data.tensorflow import tf
from simclr_jax.data.view import View

_CROP, _COLOUR, _BATCH = 0, 1, 2  # streams, so that no two draws share a key
ATTEMPTS, MIN_COVERED = 100, 0.1  # of TensorFlow's sampler, as released
OTHER_KEY = np.array([0, 1])  # added to a crop's key, for whether there is a crop
UNIFORMS = {"inception_log": 4, "torch": 22}  # random numbers of a sampler


def _bits(count, *key):
    """Random uint64 [n, count] of a key of integers and int arrays [n]."""
    h = np.zeros(1, np.uint64)
    for part in key:
        part = np.atleast_1d(part).astype(np.uint64)  # scalars would warn of overflow
        h = mix(h ^ mix(part + GOLDEN))
    return mix(h[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN)


def _uniform(count, *key):
    """Random float32 [n, count] in [0, 1), multiples of 2^-24."""
    return (_bits(count, *key) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def crop_keys(
    views: int, seed: int, epoch: int | np.ndarray, index: np.ndarray
) -> np.ndarray:
    """Keys of the crop windows.

    Args:
      views: V, the number of views.
      seed: of the run.
      epoch: epoch of these pictures.
      index: int64 [N], their positions in the split.

    Returns:
      int64 [N, V, 2].
    """
    keys = [_bits(2, _CROP, seed, epoch, index, v) for v in range(views)]
    return np.stack(keys, 1).view(np.int64)


def draw(
    views: Sequence[View],
    seed: int,
    epoch: int | np.ndarray,
    step: int | np.ndarray,
    index: np.ndarray,
) -> tuple[dict[str, np.ndarray], ...]:
    """Draws all random numbers of the views except their crop windows.

    Args:
      views: V single views (see `recipes.expand`).
      seed: of the run.
      epoch: of these pictures; an integer or int64 [N].
      step: of their batch, likewise; only `blur_sigma = "batch"` uses it.
      index: int64 [N], positions of the pictures in the split.

    Returns:
      A dict for each view: flip, jitter, grey, blur, solarise bool [N]; order int32
      [N, 4], the operation (0 brightness, 1 contrast, 2 saturation, 3 hue) of each
      slot; factors float32 [N, 4], by operation, the hue in turns; sigma float32 [N],
      in pixels; and if the view has rotations, quarters int32 [N], the number of
      anticlockwise rotations by 90 degrees, 0 to 3.
    """
    return tuple(
        _draw(view, v, seed, epoch, step, index) for v, view in enumerate(views)
    )


def _draw(view, v, seed, epoch, step, index):
    u = _uniform(16, _COLOUR, seed, epoch, index, v)
    if view.blur_sigma == "batch":
        u[:, 9] = _uniform(1, _BATCH, seed, step, v)[:, 0]

    def between(low, high, column):
        return np.float32(low) + np.float32(high - low) * u[:, column]

    b, c, s, h = view.brightness, view.contrast, view.saturation, view.hue
    if view.brightness_mode == "additive":
        brightness = between(-b, b, 5)
    else:
        brightness = between(max(0.0, 1 - b), 1 + b, 5)
    factors = (between(1 - c, 1 + c, 6), between(1 - s, 1 + s, 7), between(-h, h, 8))
    draws = {
        "flip": u[:, 0] < view.flip,
        "jitter": u[:, 1] < view.jitter,
        "grey": u[:, 2] < view.grey,
        "blur": u[:, 3] < view.blur,
        "solarise": u[:, 4] < view.solarise,
        "factors": np.stack((brightness, *factors), 1),
        "sigma": between(view.sigma[0], view.sigma[1], 9),
        "order": np.argsort(u[:, 10:14], axis=1).astype(np.int32),
    }
    if view.rotation > 0:
        quarters = 1 + np.floor(3 * u[:, 15]).astype(np.int32)
        draws["quarters"] = np.where(u[:, 14] < view.rotation, quarters, 0)
    return draws


def decode(data: Any) -> Any:
    """Decodes a JPEG, PNG, GIF (first frame), BMP or WebP file, whatever its name.

    Args:
      data: string [], or uint8 [H, W, 3], a decoded picture.

    Returns:
      uint8 [H, W, 3], not rotated by EXIF, as in the released pipelines.
    """
    if data.dtype == tf.uint8:
        return data
    image = tf.io.decode_image(data, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def window(shape: Any, key: Any, view: View) -> tuple[Any, Any]:
    """Draws a crop by the sampler that `view.crop` names, or the central square.

    `crop_windows.draw_windows` draws the same for many pictures of one size.

    Args:
      shape: int32 [3], of the picture.
      key: int64 [2].
      view: a `view.View`.

    Returns:
      (begin, size): int32 [3], arguments of `tf.slice`.
    """
    begin, size = _sample(shape, key, view)
    if view.crop_probability == 1:
        return begin, size
    cropped = tf.random.stateless_uniform([], key + OTHER_KEY) < view.crop_probability
    side = tf.reduce_min(shape[:2]) * tf.constant([1, 1, 0])
    margin = (shape - side) * tf.constant([1, 1, 0])
    square = side + tf.constant([0, 0, 3])
    return tf.where(cropped, begin, margin // 2), tf.where(cropped, size, square)


def _sample(shape, key, view):
    if view.crop != "tf_bbox":
        u = tf.random.stateless_uniform([UNIFORMS[view.crop]], key)
        begin, size = windows_from_uniform(shape[:2], u, view)
        return tf.concat([begin, [0]], 0), tf.concat([size, [3]], 0)
    # The bounding box is the whole picture: a crop has at least a tenth of its area.
    begin, size, _ = tf.raw_ops.StatelessSampleDistortedBoundingBox(
        image_size=shape,
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=MIN_COVERED,
        seed=key,
        aspect_ratio_range=view.aspect,
        area_range=view.area,
        max_attempts=ATTEMPTS,
        use_image_if_no_bounding_boxes=True,
    )
    return begin, size


def windows_from_uniform(side: Any, u: Any, view: View) -> tuple[Any, Any]:
    """Crops from uniform numbers, by all samplers except TensorFlow's.

    Args:
      side: int [..., 2], heights and widths of the pictures.
      u: float32 [..., K] in [0, 1), K as in `UNIFORMS`.
      view: a `view.View`.

    Returns:
      (begin, size): int32 [..., 2].
    """
    # In double precision, so that all machines and shapes round to the same pixels.
    side, u = tf.cast(side, tf.float64), tf.cast(u, tf.float64)
    sampler = _inception_log if view.crop == "inception_log" else _torch
    begin, size = sampler(side, u, view)
    return tf.cast(begin, tf.int32), tf.cast(size, tf.int32)


def _inception_log(side, u, view):
    """BYOL's sampler: log-uniform aspect, sides at most the picture's, no retries."""
    size = tf.clip_by_value(_sides(side, u[..., 0], u[..., 1], view), 1.0, side)
    return _uniform_up_to(side - size, u[..., 2:]), size


def _torch(side, u, view):
    """torchvision's RandomResizedCrop: ten tries, then the largest central crop."""
    tries = _sides(side[..., None, :], u[..., 0:20:2], u[..., 1:20:2], view)
    fits = tf.reduce_all((tries >= 1) & (tries <= side[..., None, :]), -1)
    first = tf.argmax(tf.cast(fits, tf.int32), -1)  # 0 if none fits
    axes = first.shape.rank
    low, high = view.aspect
    wide = tf.constant([1 / low, high], tf.float64)
    largest = tf.minimum(side, tf.round(side[..., ::-1] * wide))
    fit = tf.gather(fits, first, batch_dims=axes)[..., None]
    size = tf.where(fit, tf.gather(tries, first, batch_dims=axes), largest)
    margin = side - size
    begin = tf.where(fit, _uniform_up_to(margin, u[..., 20:]), tf.floor(margin / 2))
    return begin, size


def _sides(side, u, v, view):
    """Height and width of crops [..., 2]: area linear in u, log of aspect in v."""
    share = view.area[0] + (view.area[1] - view.area[0]) * u
    area = side[..., 0] * side[..., 1] * share
    low, high = np.log(view.aspect)
    root = tf.exp((low + (high - low) * v) / 2)  # root of the aspect
    return tf.round(tf.sqrt(area)[..., None] * tf.stack([1 / root, root], -1))


def _uniform_up_to(largest, u):
    """Uniform integers from 0 to `largest`, both included, from u in [0, 1)."""
    return tf.minimum(tf.floor(u * (largest + 1)), largest)


def crop(image: Any, key: Any, view: View) -> Any:
    """Crops one view from uint8 [H, W, 3]: float32 [S, S, 3] around 0 to 255."""
    part = tf.slice(image, *window(tf.shape(image), key, view))
    return resizing.resize(part, view.size, view.resize)


def crop_all(images: Any, windows: Any, view: View) -> Any:
    """Crops one view of every picture; the same pixels as `crop`.

    A graph has two operations a picture, so N should be small.

    Args:
      images: uint8 [N, H, W, 3], N static.
      windows: int32 [N, 4], y, x, height and width (see `crop_windows`).
      view: a `view.View`.

    Returns:
      float32 [N, S, S, 3] around 0 to 255.
    """
    n = images.shape[0]
    one = tf.ones([n, 1], tf.int32)
    begin = tf.concat([tf.range(n)[:, None], windows[:, :2], 0 * one], 1)
    size = tf.concat([one, windows[:, 2:], 3 * one], 1)
    if view.resize == "bicubic":
        images = tf.cast(images, tf.float32)
    spans = zip(tf.unstack(begin, n), tf.unstack(size, n), strict=True)
    parts = [
        resizing.resize_all(tf.slice(images, *x), view.size, view.resize) for x in spans
    ]
    return tf.ensure_shape(tf.concat(parts, 0), [n, view.size, view.size, 3])
