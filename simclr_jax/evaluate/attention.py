"""How well a vision transformer's attention covers the objects of a picture."""

from collections.abc import Callable
from typing import Any

import numpy as np

from simclr_jax.data.masks import MaskedPictures, masked_batches

SCALE = 480 / 224  # of the evaluation's pictures to the training's, in the paper
DRAWS = 2000  # of the bootstrap

Attend = Callable[[np.ndarray], Any]  # uint8 [n, S, S, 3] -> [n, heads, R, K]


def attention(
    attend: Attend,
    data: MaskedPictures,
    image_size: int,
    multiple: int,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    mass: float = 0.6,
    size: int = 0,
    background: int = 0,
    void: int = 255,
) -> dict[str, Any]:
    """The Jaccard index of objects and of what the class token attends to.

    As in DINO (arXiv:2104.14294, figure 4) and by its authors' rule
    (github.com/facebookresearch/dino/issues/54): of each head the patches that have
    together `mass` of its attention are a mask; for an object the best head counts; the
    mean is over the objects of a picture, then over the pictures. An object is all
    pixels of a label. Other than in a public reimplementation, void pixels count
    neither as object nor as attention. Pictures without an object are left out.

    Args:
      attend: the weights of the class token in the last block for the patches.
      data: of pictures and masks; both are resized whole to S x S.
      image_size: of the encoder's training.
      multiple: P, the pixels on a side of a patch.
      batch_size: the pictures that are computed at a time.
      progress: called with the pictures done and the total.
      mass: share of the attention that is kept; 0.6 in figure 4, 0.8 in the appendix.
      size: S, rounded down to a multiple of P; 0: 480 / 224 of `image_size`, 480 as
        published for 224.
      background, void: labels that are no objects.

    Returns:
      accuracy: the Jaccard index, in [0, 1].
      interval: its 95 % interval, by a bootstrap over the pictures.
      heads: the index of every head alone.
      count: pictures with an object; left_out: those without; objects: their number.
      size: S.

    Raises:
      ValueError: mass is not in (0, 1], S has no patch, or there are no objects.
      UnreadablePicture: a picture or a mask cannot be read.
    """
    size = (size or round(SCALE * image_size)) // multiple * multiple
    if not 0 < mass <= 1 or size < 1:
        raise ValueError(
            f"attention needs mass in (0, 1] and a size of at least {multiple} pixels "
            f"(one patch); got mass={mass}, size={size}."
        )
    scores, objects, done = [], 0, 0
    for images, masks in masked_batches(data, size=size, batch_size=batch_size):
        for weights, mask in zip(attend(images), masks, strict=True):
            kept = enlarged(top_mass(weights, mass), size)
            index = jaccard(kept, mask, background, void)
            objects += len(index)
            if len(index):
                scores.append([index.max(1).mean(), *index.mean(0)])
        done += len(images)
        progress(done, len(data))
    if not scores:
        raise ValueError(
            f"{data.name} has no objects: all pixels have the label {background} "
            f"(evaluate.attention.background) or {void} (void)."
        )
    best, *heads = np.array(scores).T
    return {
        "accuracy": float(best.mean()),
        "interval": bootstrap(best),
        "heads": [float(x.mean()) for x in heads],
        "count": len(best),
        "left_out": len(data) - len(best),
        "objects": objects,
        "size": size,
    }


def top_mass(weights: np.ndarray, mass: float) -> np.ndarray:
    """The patches with the largest weights that have `mass` of their sum.

    Args:
      weights: [heads, R, K], not negative.
      mass: in (0, 1].

    Returns:
      bool [heads, R, K]: without the smallest weights, whose cumulated share is at most
      1 - mass.
    """
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    order = np.argsort(flat, 1, kind="stable")
    share = np.take_along_axis(flat, order, 1) / flat.sum(1, keepdims=True)
    kept = np.empty(flat.shape, bool)
    np.put_along_axis(kept, order, np.cumsum(share, 1) > 1 - mass, 1)
    return kept.reshape(weights.shape)


def enlarged(patches: np.ndarray, size: int) -> np.ndarray:
    """[heads, R, R] -> [heads, S, S], all pixels of a patch alike; R divides S."""
    side = size // patches.shape[-1]
    return patches.repeat(side, 1).repeat(side, 2)


def jaccard(
    kept: np.ndarray, mask: np.ndarray, background: int, void: int
) -> np.ndarray:
    """Intersection over union of every object and every head, [objects, heads].

    Args:
      kept: bool [heads, S, S].
      mask: int [S, S], labels.
      background, void: labels that are no objects; void pixels do not count at all.
    """
    pixels = mask != void
    kept = kept[:, pixels]
    labels = np.setdiff1d(mask[pixels], [background])
    rows = [mask[pixels] == label for label in labels]
    scores = [(kept & row).sum(1) / (kept | row).sum(1) for row in rows]
    return np.array(scores).reshape(len(labels), len(kept))


def bootstrap(values: np.ndarray, seed: int = 0) -> list[float]:
    """[low, high], the 95 % interval of the mean of independent values [N]."""
    draw = np.random.default_rng(seed)
    means = [
        values[draw.integers(0, len(values), len(values))].mean() for _ in range(DRAWS)
    ]
    return [float(x) for x in np.percentile(means, (2.5, 97.5))]
