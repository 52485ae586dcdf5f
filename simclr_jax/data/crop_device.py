"""Crops of small pictures on the device, resized: two products with a matrix each.

The same as on the host (`simclr_jax.data.augment.crop`) to the rounding of floats, from
the same windows. Nothing here looks across pictures, so a batch that is sharded by
rows stays where it is.
"""

import jax.numpy as jnp

TABLE = 1024  # TensorFlow's bicubic reads its weights from a table of so many entries


def cut(pictures, windows, view):
    """Cuts one view out of every picture.

    Args:
      pictures: uint8 [N, H, W, 3].
      windows: int32 [N, 4]: y, x, height and width of the crops.
      view: static; its size S and its kind of `resize`.

    Returns:
      float32 [N, S, S, 3] around 0 to 1: the bicubic's overshoot is not clipped, as on
      the host; PIL's kinds are.
    """
    y, x, height, width = windows.T
    rows = weights(y, height, pictures.shape[1], view)
    columns = weights(x, width, pictures.shape[2], view)
    planes = pictures.astype(jnp.float32).transpose(0, 3, 1, 2) / 255

    def product(spec, a, b):
        return jnp.einsum(spec, a, b, precision="highest")  # a TPU rounds otherwise

    planes = product("nij,ncjk->ncik", rows, planes)
    planes = product("nij,nckj->ncki", columns, planes)
    if view.resize != "bicubic":
        planes = jnp.clip(planes, 0, 1)
    return planes.transpose(0, 2, 3, 1)


def weights(start, length, side, view):
    """What the pixels of a line give to those of its crop, resized.

    Args:
      start: int32 [N], where the crop begins.
      length: int32 [N], of the crop in pixels.
      side: of the line in pixels.
      view: its size S and its kind of `resize`.

    Returns:
      float32 [N, S, side], each row of them adding up to 1.
    """
    size, antialias = view.size, view.resize != "bicubic"
    pixel = jnp.arange(side) - start[:, None, None]  # counted from the crop's first
    length = length[:, None, None]
    centre = (2 * jnp.arange(size)[:, None] + 1) * length  # in pixels times 2 S
    apart = (2 * pixel + 1) * size - centre
    scale = jnp.maximum(length, size) if antialias else size  # of the kernel, times S
    apart = jnp.abs(apart) / (2.0 * scale)
    if not antialias:
        apart = jnp.round(apart * TABLE) / TABLE
    kernel = _triangle if view.resize == "pil_bilinear" else _cubic
    inside = (pixel >= 0) & (pixel < length)
    weight = jnp.where(inside, kernel(apart), 0)
    return weight / jnp.sum(weight, -1, keepdims=True)


def _triangle(x):
    return jnp.maximum(1 - x, 0)


def _cubic(x):
    """Keys's, a = -1/2."""
    near = ((1.5 * x - 2.5) * x) * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))
