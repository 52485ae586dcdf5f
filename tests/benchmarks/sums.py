"""What it costs a gradient to be summed over the devices in bfloat16.

python -m tests.benchmarks.sums

64 devices hold 4 pictures each, in two views; each has its part of the gradient of
NT-Xent over all 256, by a ResNet-10 in bfloat16. The parts are rounded to bfloat16 and
added up with a rounding after every addition: along the rows of an 8 x 8 torus and then
along its columns, or round one ring. NumPy does it: XLA's processors would sum in
float32. Said is the norm of the error of each kernel's gradient, relative to its own,
beside that of computing in bfloat16 at all, and of seeing half of the pictures.
"""

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.losses.contrastive import nt_xent
from simclr_jax.models.resnet import resnet10
from simclr_jax.tree import paths

DEVICES, EACH, SIDE = 64, 4, 32


def main() -> None:
    views, variables = pictures(), begin()
    full = parts("float32", variables, views)
    half = parts("bfloat16", variables, views)
    names = paths(variables["params"])
    rows = [
        errors(a, b)
        for name, a, b in zip(names, full, half, strict=True)
        if name.endswith("kernel")
    ]
    for what in rows[0]:
        middle, most = (100 * f([row[what] for row in rows]) for f in (np.median, max))
        print(f"{what:32} {middle:6.2f} %, at most {most:.2f} %")


def pictures():
    """[V, N, S, S, 3] uint8: smooth noise in two contrasts and tints."""
    draw = np.random.default_rng(0)
    n = DEVICES * EACH
    coarse = draw.normal(size=(n, 6, 6, 3))
    smooth = np.asarray(jax.image.resize(coarse, (n, SIDE, SIDE, 3), "bicubic"))
    contrast = draw.uniform(0.7, 1.3, (2, n, 1, 1, 1))
    tint = 0.3 * draw.normal(size=(2, n, 1, 1, 3))
    return np.clip(128 + 50 * (smooth * contrast + tint), 0, 255).astype(np.uint8)


def begin():
    """Parameters of no special value, and the statistics of a fresh network."""
    encoder, draw = resnet10(channels=32, stem="small"), np.random.default_rng(1)
    picture = jnp.zeros((1, SIDE, SIDE, 3))
    variables = encoder.init(jax.random.key(0), picture, train=False)
    leaves, tree = jax.tree.flatten(variables["params"])

    def other(path, x):
        return draw.uniform(0.5, 1.5, x.shape) if path.endswith("scale") else x

    scaled = map(other, paths(variables["params"]), leaves)
    return {**variables, "params": jax.tree.unflatten(tree, map(jnp.float32, scaled))}


def parts(dtype, variables, views):
    """[devices, ...] float64 for every parameter: the devices' gradients."""
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
    found = []
    for i in range(DEVICES):
        rows = slice(i * EACH, (i + 1) * EACH)
        mine = views[:, rows].reshape(-1, SIDE, SIDE, 3)
        found.append(jax.tree.leaves(pull(mine, dh[:, rows].reshape(len(mine), -1))))
    return [np.stack(x).astype(np.float64) for x in zip(*found, strict=True)]


def errors(full, half):
    """Relative to the norm, of one kernel's gradient; by name."""

    def error(ours, exact):
        return np.linalg.norm(ours - exact) / np.linalg.norm(exact)

    grid = half.reshape(8, 8, *half.shape[1:])
    by_rows = np.stack([ring(row) for row in grid])
    return {
        "computing in bfloat16": error(half.sum(0), full.sum(0)),
        "and rounding each part": error(rounded(half).sum(0), half.sum(0)),
        "and summing on a torus": error(ring(by_rows), half.sum(0)),
        "and summing in a ring": error(ring(half), half.sum(0)),
        "half of the pictures": error(2 * half[::2].sum(0), half.sum(0)),
    }


def rounded(x):
    return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)


def ring(each):
    """The sum along the first axis, rounded at every step."""
    total, *others = rounded(each)
    for x in others:
        total = rounded(total + x)
    return total


if __name__ == "__main__":
    main()
