"""What an import does with a reader's answer, less the optimiser and the files."""

import functools
import pathlib

import jax
import numpy as np

from simclr_jax.experiment import build, config
from simclr_jax.experiment.importing import TRAINED
from simclr_jax.tree import by_path, nested
from simclr_jax.zoo import name_map

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def built(found, classes=0):
    """The config, the method and the shapes of its state by path."""
    c = config.load(f"{CONFIGS}/{found.config}")
    config.override(c, found.changes)
    config.check(c)
    c.probe.enabled = classes > 0
    method = build.build_method(c, images=1_281_167, classes=classes)
    views = [
        jax.ShapeDtypeStruct((2, view.size, view.size, 3), np.uint8)
        for view in build.recipe(c)
        for _ in range(view.copies)
    ]
    return c, method, by_path(jax.eval_shape(method.init, jax.random.key(0), views))


@functools.cache
def needed(config, changes):
    """The shapes of a state with a probe, by path."""
    _, _, shapes = built(name_map.Found(config, list(changes), {}, []), classes=1000)
    return {path: x.shape for path, x in shapes.items()}


def fill(found):
    """What an import takes, and the paths of what it leaves as in a new network."""
    shapes = needed(found.config, tuple(found.changes))
    table = name_map.table(found, shapes)
    got = name_map.take(table, found.arrays, shapes, found.spare)
    trained = ("params/", "target_params/", "model_state/")
    return got, [p for p in shapes if p not in got and p.startswith(trained)]


class Taken:
    """A file's arrays in our network."""

    def __init__(self, found, classes=0):
        self.c, self.method, shapes = built(found, classes)
        table = name_map.table(found, shapes)
        sizes = {path: x.shape for path, x in shapes.items()}
        self.arrays = name_map.take(table, found.arrays, sizes, found.spare)
        self.fresh = {
            path: x
            for path, x in shapes.items()
            if path.split("/")[0] in TRAINED and path not in self.arrays
        }

    def tree(self, root: str) -> dict:
        """The arrays behind a root, nested; those that the file has not are zeros."""
        zeros = {path: np.zeros(x.shape, x.dtype) for path, x in self.fresh.items()}
        every = (self.arrays | zeros).items()
        start = f"{root}/"
        return nested(
            {k.removeprefix(start): x for k, x in every if k.startswith(start)}
        )

    def outputs(self, images, branch="online"):
        """h, z and p, [N, D] each, of a branch; p is the online one's of any z."""
        params = self.tree("params")
        if branch == "target":
            params |= self.tree("target_params")
        stats = self.tree("model_state/online") | self.tree(f"model_state/{branch}")
        y = jax.jit(self.method.network.encode)(params, stats, images)
        return jax.tree.map(lambda x: np.asarray(x[0]), y)


def difference(ours, theirs) -> float:
    """The largest, relative to the largest value."""
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
