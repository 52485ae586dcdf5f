"""Figures of a run: its views, a map of its features, its curves."""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from simclr_jax.evaluate.embedding_2d import tsne

Path = str | os.PathLike[str]

# ten colours that colour-blind people can distinguish (Petroff, arXiv:2107.02270)
COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
MARKERS = "os^Dv"
REST = "#d8d8d8"
GALLERY_ROWS = 8  # pictures of the gallery in a column, at most
MIN_PICTURES = 5  # of a map of features


def gallery(
    views: Sequence[np.ndarray], path: Path, originals: Sequence[np.ndarray] = ()
) -> None:
    """Writes a PNG with a row for each picture: the original, view 1, view 2, ...

    All views have one scale: a local crop is shown smaller.

    Args:
      views: V of float [N, S, S, 3] in [0, 1], as `data.pipeline.preview` returns them;
        S may differ from view to view.
      path: of the PNG; may be remote.
      originals: the N pictures, of any sizes; shown if there are any.

    Raises:
      ValueError: the views, or the originals, are not of equally many pictures.
    """
    columns = [("original", originals)] if len(originals) else []
    columns += [(f"view {v}", x) for v, x in enumerate(views, 1)]
    counts = {name: len(x) for name, x in columns}
    if len(set(counts.values())) != 1:
        raise ValueError(f"A gallery needs equally many pictures, got {counts}.")
    pictures = len(columns[0][1])
    rows = min(GALLERY_ROWS, pictures)
    groups = -(-pictures // rows)
    largest = max(x.shape[1] for x in views)
    widths = [1.0] * bool(len(originals)) + [x.shape[1] / largest for x in views]
    side = 1.0 if largest <= 64 else 1.8  # inches; small pictures are enlarged
    figure = _figure(groups * (sum(widths) + 0.3) * side, (rows + 0.4) * side)
    outer = figure.add_gridspec(1, groups, wspace=0.1, **_MARGINS)
    for group in range(groups):
        grid = outer[group].subgridspec(
            *(rows, len(columns)), width_ratios=widths, wspace=0.05, hspace=0.05
        )
        for row in range(min(rows, pictures - group * rows)):
            for column, (name, x) in enumerate(columns):
                axes = figure.add_subplot(grid[row, column])
                _show(axes, x[group * rows + row], widths[column])
                if row == 0:
                    axes.set_title(name, fontsize=9)
    _save(figure, path, dpi=130)


def _show(axes, image, width):
    """Draws a picture, with margins above and below so that columns have one scale."""
    axes.imshow(image, interpolation="nearest")
    middle, reach = (len(image) - 1) / 2, len(image) / width / 2
    axes.set_ylim(middle + reach, middle - reach)
    axes.set_axis_off()


def embedding(
    h: np.ndarray,
    label: np.ndarray,
    class_names: Sequence[str],
    path: Path,
    *,
    points: int = 1000,
    seed: int = 0,
) -> None:
    """Writes a PNG of a map of the features: normalised, PCA to 50, t-SNE.

    Only small distances have a meaning: the features of close points are close, too.

    Args:
      h: [N, F], N at least MIN_PICTURES.
      label, class_names, path: as for `plane`.
      points: largest number shown, drawn at random from N, since t-SNE is slow.
      seed: of that draw and of t-SNE.

    Raises:
      ValueError: fewer than MIN_PICTURES pictures.
    """
    if len(h) < MIN_PICTURES:
        raise ValueError(
            f"A map of features needs {MIN_PICTURES} pictures or more, got {len(h)}."
        )
    order = np.random.default_rng(seed).permutation(len(h))[:points]
    h = h[order] / np.maximum(np.linalg.norm(h[order], axis=1, keepdims=True), 1e-12)
    label = label[order] if len(label) else label
    title = f"{len(h)} pictures, h by t-SNE"
    plane(tsne(h, seed=seed, iterations=500), label, class_names, path, title=title)


def plane(
    xy: np.ndarray,
    label: np.ndarray,
    class_names: Sequence[str],
    path: Path,
    *,
    title: str,
) -> None:
    """Writes a PNG of points in two dimensions.

    Of more than ten classes the ten most frequent have colours, the others are grey.

    Args:
      xy: [N, 2].
      label: [N] integers, or [0] without labels: then all points have one colour.
      class_names: C names; may be empty.
      path: of the PNG; may be remote.
      title: above the map.
    """
    figure = _figure(7.5, 6)
    axes = figure.add_axes((0.02, 0.02, 0.74, 0.91))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(title, fontsize=11)
    density = max(1, len(xy) / 1000)  # the more points, the smaller
    style = {"s": 16 / density**0.6, "linewidths": 0.3 / density, "edgecolors": "white"}
    if len(label):
        _scatter_by_class(axes, xy, label, class_names, style)
        axes.legend(
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            frameon=False,
            markerscale=1.6 * density**0.3,
        )
    else:
        axes.scatter(*xy.T, color=COLOURS[0], **style)
    _save(figure, path, dpi=140)


def _scatter_by_class(axes, xy, label, class_names, style):
    classes, counts = np.unique(label, return_counts=True)
    coloured = np.sort(classes[np.argsort(-counts, kind="stable")[: len(COLOURS)]])
    others = ~np.isin(label, coloured)
    if others.any():
        axes.scatter(*xy[others].T, color=REST, label="other classes", **style)
    for i, c in enumerate(coloured):
        name = class_names[c] if len(class_names) else f"class {c}"
        marker = MARKERS[i % len(MARKERS)]
        points = xy[label == c].T
        axes.scatter(*points, label=name, color=COLOURS[i], marker=marker, **style)


def curves(metrics: Path, path: Path) -> None:
    """Writes a PNG of a run's losses, accuracies and learning rate over its steps.

    Args:
      metrics: path of metrics.jsonl.
      path: of the PNG; may be remote.
    """
    text = epath.Path(metrics).read_text()
    # The last line of a run in progress may be incomplete.
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    names = list(dict.fromkeys(name for line in lines for name in line))
    panels = {
        "loss": [name for name in names if name.endswith("loss")],
        "accuracy": [name for name in names if "accuracy" in name],
        "learning rate": [name for name in names if name == "lr"],
    }
    panels = {title: names for title, names in panels.items() if names}
    if not panels:
        return
    figure = _figure(4.5 * len(panels), 3.4)
    for number, (title, names) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), number)
        for name, colour in zip(names, COLOURS, strict=False):
            points = [(x["step"], x[name]) for x in lines if x.get(name) is not None]
            dot = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), color=colour, marker=dot, label=name)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=8)
    figure.set_layout_engine("tight")
    _save(figure, path, dpi=130)


_MARGINS = {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": 0.95}


def _figure(width: float, height: float) -> Any:
    """A figure in inches, independent of pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _save(figure, path, dpi: int) -> None:
    with epath.Path(path).open("wb") as file:
        figure.savefig(file, format="png", dpi=dpi)
