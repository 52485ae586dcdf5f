"""What a feature still knows of its view: linear probes for what the augmentation drew.

| factor | value | probe |
|---|---|---|
| crop x, crop y | centre of the crop in [0, 1] of the picture, as the view is | R2 |
| crop scale | share of the picture's area that the crop covers | R2 |
| brightness, contrast | shift or factor of the jitter; without it, of no change | R2 |
| saturation, hue | the same, of views that are not grey | R2 |
| blur | width of the blur in pixels; 0 without blur | R2 |
| flip, grey, solarise | whether it was done | balanced accuracy |
| rotation | 0 to 3 quarter turns | balanced accuracy |

The labels are exact: the draws are functions of (seed, epoch, index, view). In a view
that is flipped or turned, the crop's centre is flipped or turned likewise: nobody can
see which of two mirror images a picture was.

R2 is 1 - (squared error) / (variance): 1 for a perfect probe, 0 for the mean, below 0
for one that is worse. Balanced accuracy is the mean over the classes of the share that
is recognised, so that chance is 1 / C however rare a class is. Probes are ridge
regressions of the standardised feature, categories as indicators with equal weight of
the classes; the strength is the best on the training views, each left out once.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from simclr_jax.batch import Batch
from simclr_jax.data.drawn import drawn
from simclr_jax.data.pipeline import train_batches
from simclr_jax.data.recipes import expand
from simclr_jax.data.sources import Source
from simclr_jax.data.view import View
from simclr_jax.evaluate.factor_probe import probe
from simclr_jax.evaluate.features import FrozenEncoder, extract

CATEGORIES = ("flip", "rotation", "grey", "solarise")
EVERY = 5  # every fifth picture is for testing


class Views(NamedTuple):
    """Views of pictures: features and what was drawn, a row for each view."""

    features: dict[str, np.ndarray]  # float32 [M, D] by name
    labels: dict[str, np.ndarray]  # [M] by factor; NaN where it has no value
    picture: np.ndarray  # int [M], the position of its picture


def factors(
    encoder: FrozenEncoder,
    source: Source,
    views: Sequence[View],
    feature: str,
    size: int,
    batch_size: int,
    mesh: Mesh,
    *,
    pictures: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores of linear probes of a feature for all factors.

    Args:
      encoder: to evaluate.
      source: the training split; it needs no labels.
      views: of the run's recipe. Those of another size, DINO's small crops, are left
        out: their size alone would tell the scale.
      feature: one of the encoder's.
      size: S, the side of the pictures in pixels.
      batch_size: pictures whose features are computed together.
      mesh: of any size.
      pictures: the largest number of pictures.
      seed: of the selection of pictures and of the draws.

    Returns:
      {"factors": {factor: as from `factor_probe.probe`}, "left_out": [factor, ...],
      "pictures": [for training, for testing]}. Left out is what does not vary.

    Raises:
      ValueError: there are too few pictures.
      FloatingPointError: the features are not finite.
    """
    table = encoded_views(
        encoder, source, views, size, batch_size, mesh, pictures=pictures, seed=seed
    )
    constant = [name for name, y in table.labels.items() if _is_constant(y)]
    _, rank = np.unique(table.picture, return_inverse=True)
    test = rank % EVERY == 0
    x = table.features[feature]
    probes = {
        name: probe(x, y, test, rank, category=name in CATEGORIES)
        for name, y in table.labels.items()
        if name not in constant
    }
    counts = [len(np.unique(rank[part])) for part in (~test, test)]
    return {"factors": probes, "left_out": constant, "pictures": counts}


def encoded_views(
    encoder: FrozenEncoder,
    source: Source,
    views: Sequence[View],
    size: int,
    batch_size: int,
    mesh: Mesh,
    *,
    pictures: int,
    seed: int,
) -> Views:
    """Features and factors of views of some pictures; arguments as for `factors`."""
    n = min(len(source), pictures)
    batch_size = min(batch_size, n) // mesh.size * mesh.size
    if n < 2 * EVERY or not batch_size:
        raise ValueError(
            f"factors needs {max(2 * EVERY, mesh.size)} pictures or more, got {n}."
        )
    single = expand(views)
    numbers = [v for v, view in enumerate(single) if view.size == size]
    steps = {"batch_size": batch_size, "seed": seed, "steps": n // batch_size}
    batches = train_batches(
        source,
        views,
        first_step=0,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        **steps,
    )
    rows = extract(encoder, _view_by_view(batches, numbers), mesh)
    index, draws = drawn(source, views, **steps)
    labels = [labels_of(single[v], draws[v]) for v in numbers]
    order = np.argsort(np.concatenate([index * len(single) + v for v in numbers]))
    return Views(
        rows.values,
        {name: np.concatenate([x[name] for x in labels])[order] for name in labels[0]},
        rows.index // len(single),
    )


def _view_by_view(batches: Iterator[Batch], numbers: Sequence[int]) -> Iterator[Batch]:
    """Batches of one view each, numbered V * picture + view, for `extract`."""
    for batch in batches:
        count = np.int32(len(batch.views))
        for v in numbers:
            yield Batch(
                index=batch.index * count + np.int32(v),
                label=batch.label,
                valid=np.ones(len(batch.index), bool),
                views=(batch.views[v],),
            )


def labels_of(view: View, draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The values of all factors, see the table above.

    Args:
      view: a single view.
      draws: of M pictures, as `data.drawn.drawn` returns them for this view.

    Returns:
      float64 [M] by name.
    """
    jitter, colourful = draws["jitter"], ~draws["grey"]
    no_brightness = 0.0 if view.brightness_mode == "additive" else 1.0
    unchanged = np.array([no_brightness, 1.0, 1.0, 0.0])
    jittered = np.where(jitter[:, None], draws["factors"], unchanged[None])
    brightness, contrast, saturation, hue = jittered.T
    quarters = draws.get("quarters", np.zeros(len(jitter)))
    centre = _centre(draws["window"], draws["sides"], draws["flip"], quarters)
    y, x = centre.T
    area = np.prod(draws["window"][:, 2:] / draws["sides"], 1)
    values = {
        "crop x": x,
        "crop y": y,
        "crop scale": area,
        "flip": draws["flip"],
        "rotation": quarters,
        "brightness": brightness,
        "contrast": contrast,
        "saturation": np.where(colourful, saturation, np.nan),
        "hue": np.where(colourful, hue, np.nan),
        "grey": draws["grey"],
        "blur": np.where(draws["blur"], draws["sigma"], 0),
        "solarise": draws["solarise"],
    }
    return {name: np.asarray(x, float) for name, x in values.items()}


def _centre(window, sides, flip, quarters):
    """The crop's centre in the flipped and turned picture: [M, 2], y, x in [0, 1]."""
    y, x = ((window[:, :2] + window[:, 2:] / 2) / sides - 0.5).T
    x = np.where(flip, -x, x)
    turned = (x - 1j * y) * 1j**quarters  # anticlockwise; y counts downwards
    return np.stack([-turned.imag, turned.real], 1) + 0.5


def _is_constant(y: np.ndarray) -> bool:
    y = y[~np.isnan(y)]
    return not len(y) or y.min() == y.max()
