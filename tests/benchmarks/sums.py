"""The error of gradients that are summed over the devices in bfloat16.

python -m tests.benchmarks.sums

Each of 64 devices has 4 pictures in two views, and its part of the gradient of NT-Xent
over all 256 by a ResNet-10 in bfloat16. The parts are rounded to bfloat16 and summed
with a rounding after every addition: along the rows of an 8 x 8 torus and then along
its columns, or along one ring. NumPy does it, as XLA on CPUs would sum in float32. It
prints the norm of the error of a kernel's gradient, relative to that of the gradient,
beside the error of computing in bfloat16 at all, and of using half of the pictures.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.losses.contrastive import nt_xent
from simclr_jax.models.resnet import resnet10
from simclr_jax.tree import paths

DEVICES, SHARE, SIDE = 64, 4, 32


def main() -> None:
    views, variables = pictures(), init()
    full = parts("float32", variables, views)
    half = parts("bfloat16", variables, views)
    names = paths(variables["params"])
    rows = [
        errors(a, b)
        for name, a, b in zip(names, full, half, strict=True)
        if name.endswith("kernel")
    ]
    for name in rows[0]:
        middle, most = (100 * f([row[name] for row in rows]) for f in (np.median, max))
        print(f"{name:32} {middle:6.2f} %, at most {most:.2f} %")


def pictures() -> np.ndarray:
    """[V, N, S, S, 3] uint8: smooth noise in two contrasts and tints."""
    draw = np.random.default_rng(0)
    n = DEVICES * SHARE
    coarse = draw.normal(size=(n, 6, 6, 3))
    smooth = np.asarray(jax.image.resize(coarse, (n, SIDE, SIDE, 3), "bicubic"))
    contrast = draw.uniform(0.7, 1.3, (2, n, 1, 1, 1))
    tint = 0.3 * draw.normal(size=(2, n, 1, 1, 3))
    return np.clip(128 + 50 * (smooth * contrast + tint), 0, 255).astype(np.uint8)


def init() -> dict[str, Any]:
    """Parameters with random scales, and newly initialised statistics."""
    encoder, draw = resnet10(channels=32, stem="small"), np.random.default_rng(1)
    picture = jnp.zeros((1, SIDE, SIDE, 3))
    variables = encoder.init(jax.random.key(0), picture, train=False)
    leaves, tree = jax.tree.flatten(variables["params"])

    def scaled(path, x):
        return draw.uniform(0.5, 1.5, x.shape) if path.endswith("scale") else x

    leaves = map(jnp.float32, map(scaled, paths(variables["params"]), leaves))
    return {**variables, "params": jax.tree.unflatten(tree, leaves)}


def parts(dtype: str, variables: dict[str, Any], views: np.ndarray) -> list[np.ndarray]:
    """[devices, ...] float64 for every parameter: the gradients of the devices."""
    encoder = resnet10(channels=32, stem="small", dtype=dtype)

    @jax.jit
    def encode(params, x):
        return encoder.apply({**variables, "params": params}, x, train=False)

    @jax.jit
    def pull(x, dh):
        return jax.vjp(lambda params: encode(params, x), variables["params"])[1](dh)[0]

    h = jnp.stack([encode(variables["params"], x) for x in views])
    mixing = np.random.default_rng(2).normal(size=(h.shape[-1], 64)) / 20
    dh = jax.grad(lambda h: nt_xent(h @ mixing, 0.1)[0])(h)
    gradients = []
    for i in range(DEVICES):
        rows = slice(i * SHARE, (i + 1) * SHARE)
        x = views[:, rows].reshape(-1, SIDE, SIDE, 3)
        gradients.append(jax.tree.leaves(pull(x, dh[:, rows].reshape(len(x), -1))))
    return [np.stack(x).astype(np.float64) for x in zip(*gradients, strict=True)]


def errors(full: np.ndarray, half: np.ndarray) -> dict[str, float]:
    """Of one kernel's gradient, relative to its norm, by name.

    Args:
      full: [devices, ...], computed in float32.
      half: the same, computed in bfloat16.
    """

    def error(gradient, exact):
        return float(np.linalg.norm(gradient - exact) / np.linalg.norm(exact))

    grid = half.reshape(8, 8, *half.shape[1:])
    by_rows = np.stack([ring(row) for row in grid])
    return {
        "computing in bfloat16": error(half.sum(0), full.sum(0)),
        "and rounding each part": error(rounded(half).sum(0), half.sum(0)),
        "and summing on a torus": error(ring(by_rows), half.sum(0)),
        "and summing in a ring": error(ring(half), half.sum(0)),
        "half of the pictures": error(2 * half[::2].sum(0), half.sum(0)),
    }


def rounded(x: np.ndarray) -> np.ndarray:
    """x rounded to bfloat16, as float64."""
    return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)


def ring(parts: np.ndarray) -> np.ndarray:
    """The sum along the first axis, rounded at every step."""
    total, *others = rounded(parts)
    for x in others:
        total = rounded(total + x)
    return total


if __name__ == "__main__":
    main()
