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
MARKED = 20  # classes with a mark of their own: at most colours times markers
REST = "#d8d8d8"
ACCURACY = "accuracy in %"
WIDTH, HEIGHT = 9.0, 7.5  # inches: the largest map, without legend and title
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

    Each class has its own pair of colour and marker. Of more than MARKED classes the
    most frequent have one, and the others are one grey group. The points span the map,
    at equal scales; the legend is beside it.

    Args:
      xy: [N, 2].
      label: [N] integers, or [0] without labels: then all points have one colour.
      class_names: C names; may be empty.
      path: of the PNG; may be remote.
      title: above the map.
    """
    figure, axes = _map_axes(xy)
    axes.set_title(title, fontsize=11)
    density = max(1, len(xy) / 1000)  # the more points, the smaller
    style = {"s": 22 / density**0.6, "linewidths": 0.3 / density, "edgecolors": "white"}
    if len(label):
        _scatter_by_class(axes, xy, label, class_names, style)
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            borderaxespad=0.0,
            frameon=False,
            fontsize=9,
            markerscale=1.4 * density**0.3,
        )
    else:
        axes.scatter(*xy.T, color=COLOURS[0], **style)
    _save(figure, path, dpi=140, bbox_inches="tight", pad_inches=0.1)


def _map_axes(xy):
    """A figure whose axes have the proportions of the points and just contain them."""
    low, high = xy.min(0), xy.max(0)
    extent = np.maximum(high - low, 1e-6 + 0.2 * (high - low).max())
    middle, reach = (low + high) / 2, 1.04 * extent / 2
    size = extent * min(WIDTH / extent[0], HEIGHT / extent[1])
    figure = _figure(*size)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xticks=[], yticks=[])
    axes.set_xlim(middle[0] - reach[0], middle[0] + reach[0])
    axes.set_ylim(middle[1] - reach[1], middle[1] + reach[1])
    axes.set_aspect("equal")
    return figure, axes


def _mark(i: int) -> dict[str, str]:
    """Colour and marker of the i-th class; the first fifty are all different."""
    marker = MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
    return {"color": COLOURS[i % len(COLOURS)], "marker": marker}


def _scatter_by_class(axes, xy, label, class_names, style):
    classes, counts = np.unique(label, return_counts=True)
    marked = np.sort(classes[np.argsort(-counts, kind="stable")[:MARKED]])
    for i, c in enumerate(marked):
        name = class_names[c] if len(class_names) else f"class {c}"
        axes.scatter(*xy[label == c].T, label=name, **_mark(i), **style)
    others = ~np.isin(label, marked)
    if others.any():  # below the other points
        name = f"{len(classes) - len(marked)} other classes"
        axes.scatter(*xy[others].T, color=REST, label=name, zorder=0, **style)


def curves(
    metrics: Path, path: Path, *, train: str = "train", test: str = "test"
) -> None:
    """Writes a PNG of a run's losses, accuracies and learning rate over its steps.

    Every loss has a panel of its own, since their scales differ.

    Args:
      metrics: path of metrics.jsonl.
      path: of the PNG; may be remote.
      train, test: the splits that probe and kNN are evaluated on, for the legend.
    """
    text = epath.Path(metrics).read_text()
    # The last line of a run in progress may be incomplete.
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    panels = _panels(lines, train, test)
    if not panels:
        return
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = _figure(5.5 * columns, 3.4 * rows)
    for number, (title, series) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, columns, number)
        for (label, points), colour in zip(series.items(), COLOURS, strict=False):
            dot = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), color=colour, marker=dot, label=label)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if title == ACCURACY:
            axes.margins(y=0.25)  # room for the legend
            axes.set_ylim(bottom=0)  # a change within the error does not look large
            axes.legend(frameon=False, fontsize=8)
    figure.set_layout_engine("tight")
    _save(figure, path, dpi=130)


def _panels(lines, train, test):
    """{title: {label: [(step, value)]}} of the curves of each panel."""

    def points(name, factor=1.0):
        return [(x["step"], factor * x[name]) for x in lines if x.get(name) is not None]

    names = dict.fromkeys(name for line in lines for name in line)
    panels = {
        f"{name.replace('_', ' ')}, on augmented pictures of {train}": {
            name: points(name)
        }
        for name in names
        if name.endswith("loss")
    }
    panels[ACCURACY] = {
        f"probe, on augmented pictures of {train}": points("probe_accuracy", 100.0),
        f"kNN, on pictures of {test}": points("knn_accuracy", 100.0),
    }
    panels["learning rate"] = {"lr": points("lr")}
    shown = {
        title: {label: x for label, x in series.items() if x}
        for title, series in panels.items()
    }
    return {title: series for title, series in shown.items() if series}


_MARGINS = {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": 0.95}


def _figure(width: float, height: float) -> Any:
    """A figure in inches, independent of pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _save(figure, path, dpi: int, **layout: Any) -> None:
    with epath.Path(path).open("wb") as file:
        figure.savefig(file, format="png", dpi=dpi, **layout)
