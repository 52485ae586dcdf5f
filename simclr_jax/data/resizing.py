"""Pictures resized on the host, and the central crop of the evaluation."""

from typing import Any

from simclr_jax.data.tensorflow import tf


def resize(image: Any, size: int, method: str = "bicubic") -> Any:
    """Resizes uint8 [H, W, 3] to a square, half-pixel centres.

    Args:
      image: uint8 [H, W, 3].
      size: S, side of the result.
      method: as `View.resize`. "bicubic" has no antialiasing, and its overshoot is not
        clipped here. PIL's methods have antialiasing and are clipped to [0, 255]. They
        equal PIL up to rounding, except that PIL's bicubic clips the overshoot between
        its two passes (a difference of some levels at sharp edges).

    Returns:
      float32 [S, S, 3], around 0 to 255.
    """
    return resize_all(image[None], size, method)[0]


def resize_all(images: Any, size: int, method: str) -> Any:
    """The same for pictures of one size: [N, H, W, 3] -> float32 [N, S, S, 3]."""
    if method == "bicubic":
        pixels = tf.cast(images, tf.float32)  # the kernel is slower on uint8
        return tf.raw_ops.ResizeBicubic(
            images=pixels, size=[size, size], half_pixel_centers=True
        )
    pixels = tf.raw_ops.ScaleAndTranslate(
        images=images,
        size=[size, size],
        scale=size / tf.cast(tf.shape(images)[1:3], tf.float32),
        translation=[0.0, 0.0],
        kernel_type={"pil_bilinear": "triangle", "pil_bicubic": "keyscubic"}[method],
        antialias=True,
    )
    return tf.clip_by_value(pixels, 0.0, 255.0)


def centre(image: Any, size: int) -> Any:
    """SimCLR's crop for evaluation: central 7/8 of the shorter side, resized.

    If size is 32 or less, nothing is cropped, and only pictures of another size are
    resized.

    Args:
      image: uint8 [H, W, 3].
      size: S, side of the result.

    Returns:
      uint8 [S, S, 3].
    """
    if size > 32:
        return to_uint8(resize(_central(image, 0.875), size))
    return _resized_unless_fitting(image, size)


def centre_square(image: Any, size: int) -> Any:
    """The largest central square, resized: as if the shorter side were resized first.

    The crop for transfer of SimCLR (appendix B.8) and BYOL.

    Args:
      image: uint8 [H, W, 3].
      size: S, side of the result.

    Returns:
      uint8 [S, S, 3].
    """
    return _resized_unless_fitting(_central(image, 1.0), size)


def _central(image, share):
    """The central square with a share of the shorter side."""
    shape = tf.shape(image)[:2]
    shorter = tf.cast(tf.reduce_min(shape), tf.float32)
    side = tf.maximum(tf.cast(tf.round(share * shorter), tf.int32), 1)
    begin = (shape - side + 1) // 2
    return tf.slice(image, [*tf.unstack(begin), 0], [side, side, 3])


def _resized_unless_fitting(image, size):
    fits = tf.reduce_all(tf.shape(image)[:2] == size)
    image = tf.cond(fits, lambda: image, lambda: to_uint8(resize(image, size)))
    return tf.ensure_shape(image, [size, size, 3])


def to_uint8(x: Any) -> Any:
    """Rounds float32 around 0 to 255 to uint8."""
    # One pass over the pixels, instead of four to clip, add a half and cast.
    rounded = tf.raw_ops.QuantizeV2(
        input=x, min_range=0.0, max_range=255.0, T=tf.quint8
    )
    return tf.bitcast(rounded.output, tf.uint8)
