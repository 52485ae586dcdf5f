"""Crops of small pictures on the device, resized: two products with a matrix each.

Equal to those of the host (`augment.crop`) up to rounding, from the same windows. No
operation mixes pictures, so a batch that is split by rows needs no communication.
"""

import jax
import jax.numpy as jnp

from simclr_jax.data.view import View

TABLE = 1024  # TensorFlow's bicubic reads its weights from a table of so many entries


def crop(pictures: jax.Array, windows: jax.Array, view: View) -> jax.Array:
    """Crops one view from every picture.

    Args:
      pictures: uint8 [N, H, W, 3].
      windows: int32 [N, 4]: y, x, height and width of the crops.
      view: static; read are its size S and `resize`.

    Returns:
      float32 [N, S, S, 3] around 0 to 1: as on the host, the overshoot of "bicubic" is
      not clipped, that of PIL's methods is.
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


def weights(offset: jax.Array, length: jax.Array, side: int, view: View) -> jax.Array:
    """The weights of a line's pixels in the pixels of its crop, resized.

    Args:
      offset: int32 [N], the first pixel of the crop.
      length: int32 [N], of the crop, in pixels.
      side: of the line, in pixels.
      view: read are its size S and `resize`.

    Returns:
      float32 [N, S, side]; the weights of a pixel add up to 1.
    """
    size, antialias = view.size, view.resize != "bicubic"
    pixel = jnp.arange(side) - offset[:, None, None]  # from the crop's first
    length = length[:, None, None]
    centre = (2 * jnp.arange(size)[:, None] + 1) * length  # in pixels times 2 S
    distance = (2 * pixel + 1) * size - centre
    scale = jnp.maximum(length, size) if antialias else size  # of the kernel, times S
    distance = jnp.abs(distance) / (2.0 * scale)
    if not antialias:
        distance = jnp.round(distance * TABLE) / TABLE
    kernel = _triangle if view.resize == "pil_bilinear" else _cubic
    inside = (pixel >= 0) & (pixel < length)
    weight = jnp.where(inside, kernel(distance), 0)
    return weight / jnp.sum(weight, -1, keepdims=True)


def _triangle(x):
    return jnp.maximum(1 - x, 0)


def _cubic(x):
    """Keys's, a = -1/2."""
    near = ((1.5 * x - 2.5) * x) * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))
