"""Crops and resizes small pictures on the device, by two matrix products each.

The results equal those of the host (`augment.crop`) for the same windows, up to
rounding. No operation mixes pictures, so a batch that is split by rows needs no
communication.
"""

import jax
import jax.numpy as jnp

from simclr_jax.data.view import View

TABLE = 1024  # entries per pixel in the table of TensorFlow's bicubic weights


def crop(pictures: jax.Array, windows: jax.Array, view: View) -> jax.Array:
    """Crops one view from every picture.

    Args:
      pictures: uint8 [N, H, W, 3].
      windows: int32 [N, 4]: y, x, height and width of the crops.
      view: static; only its size S and `resize` are used.

    Returns:
      float32 [N, S, S, 3] around 0 to 1; as on the host, the overshoot of PIL's methods
      is clipped, that of "bicubic" is not.
    """
    y, x, height, width = windows.T
    rows = weights(y, height, pictures.shape[1], view)
    columns = weights(x, width, pictures.shape[2], view)
    planes = pictures.astype(jnp.float32).transpose(0, 3, 1, 2) / 255

    def product(spec, a, b):
        return jnp.einsum(spec, a, b, precision="highest")  # else a TPU rounds them

    planes = product("nij,ncjk->ncik", rows, planes)
    planes = product("nij,nckj->ncki", columns, planes)
    if view.resize != "bicubic":
        planes = jnp.clip(planes, 0, 1)
    return planes.transpose(0, 2, 3, 1)


def weights(offset: jax.Array, length: jax.Array, side: int, view: View) -> jax.Array:
    """The matrices that crop and resize the rows, or the columns, of N pictures.

    Args:
      offset: int32 [N], the first row of the crop.
      length: int32 [N], the number of rows of the crop.
      side: the number of rows of a picture.
      view: only its size S and `resize` are used.

    Returns:
      float32 [N, S, side]; the weights of each of the S results add up to 1.
    """
    size, antialias = view.size, view.resize != "bicubic"
    pixel = jnp.arange(side) - offset[:, None, None]  # its position in the crop
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
    """Keys's cubic kernel with a = -1/2."""
    near = ((1.5 * x - 2.5) * x) * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))
