"""Normalisation: of pixels by constants, of activations by batch statistics."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.rows import WHOLE, Rows


def pixels(
    x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...], dtype: str
) -> jax.Array:
    """The first operation of every encoder: ((x / 255 if uint8 else x) - mean) / std.

    Args:
      x: [N, H, W, 3] uint8, or float in [0, 1].
      mean, std: per channel, on the scale of [0, 1].
      dtype: of the result; the arithmetic is float32.

    Raises:
      ValueError: x has another dtype, or another number of channels than mean.
    """
    if x.ndim != 4 or x.shape[-1] != len(mean) or len(mean) != len(std):
        raise ValueError(
            f"An encoder takes pictures of shape [N, H, W, {len(mean)}], one mean and "
            f"one std per channel; got shape {x.shape}, mean {mean}, std {std}."
        )
    if x.dtype == jnp.uint8:
        x = x.astype(jnp.float32) / 255
    elif not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"An encoder takes uint8 pictures, or float ones in [0, 1]; got {x.dtype}."
        )
    x = (x.astype(jnp.float32) - jnp.array(mean)) / jnp.array(std)
    return x.astype(dtype)


MOMENTUM = 0.9  # weight of the old running statistics in an update


class BatchNorm(nn.Module):
    """Batch normalisation with one-pass statistics in float32.

    Under jit the statistics are those of the whole batch, over all devices. With
    `groups` > 1 each group of N / groups consecutive rows has its own statistics. The
    groups do not depend on the number of devices; a sharded batch keeps consecutive
    rows together, so no image is moved. The running statistics are then the means over
    the groups.

    The variance is biased (divided by the count), in the running statistics too.
    """

    momentum: float = MOMENTUM
    epsilon: float = 1e-5
    groups: int = 1
    use_scale: bool = True
    use_bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    relu: bool = False  # whether a ReLU follows, which then shares a gradient with it
    dtype: str = "float32"  # of the output; the arithmetic is float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: Rows = WHOLE) -> jax.Array:
        """[N, ..., C] -> [N, ..., C], normalised per channel C."""
        shape = (x.shape[-1],)
        scale, bias = jnp.ones(shape), jnp.zeros(shape)
        if self.use_scale:
            scale = self.param("scale", self.scale_init, shape)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)

        if not train:
            y = x.astype(jnp.float32)
            y = (y - mean.value) * (scale * jax.lax.rsqrt(var.value + self.epsilon))
            return self._activated(y + bias).astype(self.dtype)

        if rows.shuffle is not None and self.groups > 1:
            y = x.astype(jnp.float32)
            m, v = _shuffled_moments(y, rows.shuffle, self.groups)
            y = (y - m) * (scale * jax.lax.rsqrt(v + self.epsilon)) + bias
            y = self._activated(y)
        else:
            y = x.reshape(self.groups, _group_size(x, self.groups), *x.shape[1:])
            y, m, v = _normalise(y, scale, bias, self.epsilon, self.relu)
        if not self.is_initializing():
            momentum = self.momentum**rows.momentum_power
            mean.value = _running(mean.value, m, momentum)
            var.value = _running(var.value, v, momentum)
        return y.reshape(x.shape).astype(self.dtype)

    def _activated(self, y):
        return nn.relu(y) if self.relu else y


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalise(x, scale, bias, epsilon, relu):
    """Normalises each group by its moments (Ioffe & Szegedy 2015, algorithm 1).

    Its own gradient is one pass for two sums and one pass for dx; JAX's keeps more
    arrays and reads them more often.

    Args:
      x: [G, n, ..., C].
      scale, bias: [C] float32.
      relu: whether to return max(y, 0).

    Returns:
      y [G, n, ..., C] float32, and mean and variance [G, 1, ..., C], which are not
      differentiated: they are for the running statistics.
    """
    return _normalise_forward(x, scale, bias, epsilon, relu)[0]


def _normalise_forward(x, scale, bias, epsilon, relu):
    mean, variance = _moments(x.astype(jnp.float32))
    y = _affine(x, mean, scale * jax.lax.rsqrt(variance + epsilon), bias)
    y = nn.relu(y) if relu else y
    return (y, mean, variance), (x, scale, bias, mean, variance)


def _affine(x, mean, factor, bias):
    return (x.astype(jnp.float32) - mean) * factor + bias


def _normalise_backward(epsilon, relu, saved, gradients):
    x, scale, bias, mean, variance = saved
    dy, *_ = gradients
    inverse = jax.lax.rsqrt(variance + epsilon)
    if relu:  # y is computed again: to read x and dy is less than to read dy and y
        dy = jnp.where(_affine(x, mean, scale * inverse, bias) > 0, dy, 0)
    y = x.astype(jnp.float32)
    axes = tuple(range(1, x.ndim - 1))
    dbias = jnp.sum(dy, axes, keepdims=True)
    if x.ndim > 3:  # pictures: XLA would write dy * (y - mean) to memory on a CPU
        along = jnp.sum(dy * y, axes, keepdims=True) - mean * dbias
    else:  # rows of a head, which may collapse: this has less rounding
        along = jnp.sum(dy * (y - mean), axes, keepdims=True)
    dscale = inverse * along
    n = x.size // mean.size
    dx = dy - dbias / n - (y - mean) * (inverse * dscale / n)
    dx = scale * inverse * dx
    return dx.astype(x.dtype), _per_channel(dscale), _per_channel(dbias)


def _per_channel(x):
    """Sums over the groups: [G, 1, ..., C] -> [C]."""
    return x.reshape(-1, x.shape[-1]).sum(0)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _running(old, new, momentum: float):
    new = new.reshape(-1, old.size).mean(0)  # over groups, or rows if shuffled
    return momentum * old + (1 - momentum) * new


def group_count(size: int, rows: int) -> int:
    """The number of batch-norm groups of `size` rows in a batch.

    Args:
      size: rows of a group; 0 is the whole batch.
      rows: of the batch; a batch smaller than a group is one group.

    Raises:
      ValueError: `size` does not divide `rows`.
    """
    if not size or rows < size:
        return 1
    groups, rest = divmod(rows, size)
    if rest:
        raise ValueError(
            f"Batch norm in groups of {size} rows needs a batch that they divide; this "
            f"one has {rows} (images x views of one pass)."
        )
    return groups


def _group_size(x, groups: int) -> int:
    """The number of rows of a group."""
    rows, rest = divmod(x.shape[0], groups)
    if rest:
        raise ValueError(
            f"Batch norm in {groups} groups needs a batch that they divide; this one "
            f"has {x.shape[0]} rows (images x views of one pass)."
        )
    return rows


def _moments(x):
    """Mean and biased variance of each group: [G, n, ..., C] -> two [G, 1, ..., C].

    E[x^2] - E[x]^2 reads the activations once and needs one sum over the devices, not
    two; rounding can take it below zero, hence the clamp.
    """
    axes = tuple(range(1, x.ndim - 1))
    mean = jnp.mean(x, axes, keepdims=True)
    square = jnp.mean(x * x, axes, keepdims=True)
    return mean, jnp.maximum(square - mean * mean, 0)


def _shuffled_moments(x, shuffle, groups: int):
    """The moments of each row's group after a shuffle: [N, ..., C] -> two [N, 1, C].

    Row i is in group shuffle[i] // (N / G). The sums of the groups are products with
    the one-hot matrix [N, G], so devices exchange [G, C] numbers instead of images.
    """
    size = _group_size(x, groups)
    member = jax.nn.one_hot(shuffle // size, groups)
    axes = tuple(range(1, x.ndim - 1))

    def group_mean(row_means):
        sums = jnp.einsum("ng,nc->gc", member, row_means, precision="highest")
        return jnp.einsum("ng,gc->nc", member, sums / size, precision="highest")

    mean = group_mean(jnp.mean(x, axes))
    square = group_mean(jnp.mean(x * x, axes))
    shape = (x.shape[0], *(1 for _ in axes), x.shape[-1])
    variance = jnp.maximum(square - mean * mean, 0)
    return mean.reshape(shape), variance.reshape(shape)
