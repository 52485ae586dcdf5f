"""Pictures of a run: its views, its features on a plane, its curves."""

import json
from collections.abc import Sequence

import numpy as np
from etils import epath

from simclr_jax.evaluate.embedding_2d import tsne

# ten colours that stay apart for colour-blind eyes (Petroff, arXiv:2107.02270)
COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
MARKERS = "os^Dv"  # and shapes, for who cannot tell the colours apart
REST = "#d8d8d8"
DOWN = 8  # pictures of the gallery in one column
FEWEST = 5  # pictures that make a map


def gallery(views: Sequence[np.ndarray], path, originals: Sequence = ()) -> None:
    """Writes a PNG with a row for each picture: the original, view 1, view 2, ...

    Views keep their proportions to each other: a local crop is the smaller picture.

    Args:
      views: V of float [N, S, S, 3] in [0, 1], as `data.pipeline.preview` gives them; S
        may differ from view to view.
      path: of the PNG; may be remote.
      originals: the N pictures themselves, of any sizes, where they are to be shown.

    Raises:
      ValueError: if the views, or the originals, are not of equally many pictures.
    """
    columns = [("original", originals)] if len(originals) else []
    columns += [(f"view {v}", x) for v, x in enumerate(views, 1)]
    counts = {name: len(x) for name, x in columns}
    if len(set(counts.values())) != 1:
        raise ValueError(f"A gallery wants equally many pictures each, got {counts}.")
    pictures = len(columns[0][1])
    down = min(DOWN, pictures)
    groups = -(-pictures // down)
    largest = max(x.shape[1] for x in views)
    shares = [1.0] * bool(len(originals)) + [x.shape[1] / largest for x in views]
    side = 1.0 if largest <= 64 else 1.8  # inches; small pictures grow
    figure = _figure(groups * (sum(shares) + 0.3) * side, (down + 0.4) * side)
    outer = figure.add_gridspec(1, groups, wspace=0.1, **_MARGINS)
    for group in range(groups):
        inner = outer[group].subgridspec(
            *(down, len(columns)), width_ratios=shares, wspace=0.05, hspace=0.05
        )
        for row in range(min(down, pictures - group * down)):
            for column, (name, x) in enumerate(columns):
                axes = figure.add_subplot(inner[row, column])
                image = x[group * down + row]
                axes.imshow(image, interpolation="nearest")
                # as much room above and below as makes all columns of one scale
                middle, reach = (len(image) - 1) / 2, len(image) / shares[column] / 2
                axes.set_ylim(middle + reach, middle - reach)
                axes.set_axis_off()
                if row == 0:
                    axes.set_title(name, fontsize=9)
    _save(figure, path, dpi=130)


def embedding(
    h: np.ndarray,
    label: np.ndarray,
    class_names: Sequence[str],
    path,
    *,
    points: int = 1000,
    seed: int = 0,
) -> None:
    """Writes a PNG of the features on a plane: cosine directions, PCA to 50, t-SNE.

    Near points were near; distances between far groups, and their sizes, mean nothing.

    Args:
      h: [N, F], N at least FEWEST.
      label, class_names, path: as for `plane`.
      points: shown, at most; drawn at random from N, since t-SNE takes its time.
      seed: of that draw and of t-SNE.

    Raises:
      ValueError: for fewer than FEWEST pictures.
    """
    if len(h) < FEWEST:
        raise ValueError(
            f"A map of features wants {FEWEST} pictures or more, got {len(h)}."
        )
    order = np.random.default_rng(seed).permutation(len(h))[:points]
    h = h[order] / np.maximum(np.linalg.norm(h[order], axis=1, keepdims=True), 1e-12)
    label = label[order] if len(label) else label
    title = f"{len(h)} pictures, h by t-SNE"
    plane(tsne(h, seed=seed, iterations=500), label, class_names, path, title=title)


def plane(
    xy: np.ndarray, label: np.ndarray, class_names: Sequence[str], path, *, title: str
) -> None:
    """Writes a PNG of points on a plane.

    Of more than ten classes the ten most frequent have colours, the rest is grey.

    Args:
      xy: [N, 2].
      label: [N] integers, or [0] where there are none: then all points look alike.
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
    crowd = max(1, len(xy) / 1000)  # smaller points where there are more
    style = {"s": 16 / crowd**0.6, "linewidths": 0.3 / crowd, "edgecolors": "white"}
    if not len(label):
        axes.scatter(*xy.T, color=COLOURS[0], **style)
        return _save(figure, path, dpi=140)
    classes, counts = np.unique(label, return_counts=True)
    shown = np.sort(classes[np.argsort(-counts, kind="stable")[: len(COLOURS)]])
    rest = ~np.isin(label, shown)
    if rest.any():
        axes.scatter(*xy[rest].T, color=REST, label="other classes", **style)
    for i, c in enumerate(shown):
        name = class_names[c] if len(class_names) else f"class {c}"
        look = {"color": COLOURS[i], "marker": MARKERS[i % len(MARKERS)]}
        axes.scatter(*xy[label == c].T, label=name, **look, **style)
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
        markerscale=1.6 * crowd**0.3,
    )
    return _save(figure, path, dpi=140)


def curves(metrics, path) -> None:
    """Writes a PNG of a run over its steps: the losses, the rate, the accuracies.

    Args:
      metrics: path of metrics.jsonl.
      path: of the PNG; may be remote.
    """
    text = epath.Path(metrics).read_text()
    # A run that goes on may be in the middle of its last line.
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
    for place, (title, names) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), place)
        for name, colour in zip(names, COLOURS, strict=False):
            known = [(x["step"], x[name]) for x in lines if x.get(name) is not None]
            dot = "o" if len(known) < 30 else None
            axes.plot(*zip(*known, strict=True), color=colour, marker=dot, label=name)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=8)
    figure.set_layout_engine("tight")
    _save(figure, path, dpi=130)


_MARGINS = {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": 0.95}


def _figure(width: float, height: float):
    """A figure of its own, in inches: pyplot's global state and windows stay out."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _save(figure, path, dpi: int) -> None:
    with epath.Path(path).open("wb") as file:
        figure.savefig(file, format="png", dpi=dpi)
