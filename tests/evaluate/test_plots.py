"""The pictures exist, have the right proportions and show what they were given."""

import json

import matplotlib.image
import numpy as np
import pytest

from simclr_jax.evaluate import plots

NAMES = tuple(f"class {i}" for i in range(25))


def blobs(n, classes, apart=6.0):
    rng = np.random.default_rng(0)
    label = (np.arange(n) % classes).astype(np.int32)
    centres = apart * rng.normal(size=(classes, 32))
    return (centres[label] + rng.normal(size=(n, 32))).astype(np.float32), label


def share(path, colour):
    """Of the pixels, how many have nearly this colour."""
    pixels = matplotlib.image.imread(path)[..., :3]
    return np.mean(np.all(np.abs(pixels - np.array(colour)) < 0.02, -1))


def test_gallery_shows_every_picture_and_view(tmp_path):
    red, green = np.zeros((2, 10, 32, 32, 3), np.float32)
    red[..., 0], green[..., 1] = 1, 1
    blue = [np.full((20, 30, 3), (0, 0, 255), np.uint8)] * 10  # not square
    plots.gallery((red, green), tmp_path / "views.png", originals=blue)
    reds, greens = (share(tmp_path / "views.png", c) for c in np.eye(3)[:2])
    blues = share(tmp_path / "views.png", (0, 0, 1))
    assert reds == pytest.approx(greens, rel=0.05)
    assert reds > 0.1
    assert blues == pytest.approx(reds * 2 / 3, rel=0.15)  # its shape is kept


def test_gallery_without_originals(tmp_path):
    plots.gallery([np.ones((3, 96, 96, 3), np.float32)] * 3, tmp_path / "views.png")
    assert (tmp_path / "views.png").stat().st_size


def test_gallery_keeps_the_proportions_of_the_views(tmp_path):
    red, green = np.zeros((3, 32, 32, 3)), np.zeros((3, 16, 16, 3))
    red[..., 0], green[..., 1] = 1, 1
    plots.gallery((red, green, green), tmp_path / "views.png")
    reds, greens = (share(tmp_path / "views.png", c) for c in np.eye(3)[:2])
    assert greens == pytest.approx(2 * reds / 4, rel=0.02)


def test_gallery_of_unequal_numbers_is_an_error(tmp_path):
    views = np.ones((3, 8, 8, 3)), np.ones((2, 8, 8, 3))
    with pytest.raises(ValueError, match="'view 1': 3, 'view 2': 2"):
        plots.gallery(views, tmp_path / "views.png")


@pytest.mark.parametrize("names", [NAMES[:3], ()])
def test_embedding_colours_the_classes(tmp_path, names):
    h, label = blobs(60, 3)
    plots.embedding(h, label, names, tmp_path / "embedding.png", points=50)
    for colour in plots.COLOURS[:3]:
        assert share(tmp_path / "embedding.png", rgb(colour)) > 5e-5
    assert share(tmp_path / "embedding.png", rgb(plots.COLOURS[3])) < 5e-6


def test_embedding_of_many_classes_has_grey_ones(tmp_path):
    h, label = blobs(75, 25)
    plots.embedding(h, label, NAMES, tmp_path / "embedding.png")
    assert share(tmp_path / "embedding.png", rgb(plots.REST)) > 5e-5


def test_embedding_needs_no_labels(tmp_path):
    h, _ = blobs(5, 2)
    plots.embedding(h, np.empty(0, np.int32), (), tmp_path / "embedding.png")
    assert share(tmp_path / "embedding.png", rgb(plots.COLOURS[0])) > 1e-4


def test_embedding_of_too_few_pictures_is_an_error(tmp_path):
    h, label = blobs(4, 2)
    with pytest.raises(ValueError, match="5 pictures or more, got 4"):
        plots.embedding(h, label, NAMES, tmp_path / "embedding.png")


def test_plane_keeps_positions_and_scale(tmp_path):
    """Left is left and up is up, at equal scales."""
    corners = np.array([(0, 0), (30, 0), (0, 10)], np.float32)
    xy, label = corners.repeat(9, 0), np.arange(3).repeat(9)
    plots.plane(xy, label, NAMES, tmp_path / "map.png", title="three corners")
    pixels = matplotlib.image.imread(tmp_path / "map.png")[:, :1275, :3]  # no legend

    def centre_of(colour):
        """(column, row from below) of the middle of a colour, without the legend."""
        hits = np.all(np.abs(pixels - np.array(rgb(colour))) < 0.02, -1)
        row, column = np.nonzero(hits)
        return np.array([column.mean(), -row.mean()])

    origin, right, up = map(centre_of, plots.COLOURS[:3])
    unit = (up - origin)[1] / 10  # pixels
    np.testing.assert_allclose((right - origin) / unit, (30, 0), atol=0.3)


def drawn(monkeypatch, draw):
    """The figure that a function of `plots` saves."""
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, *_, **__: figures.append(figure))
    draw()
    return figures[0]


@pytest.mark.parametrize(("classes", "groups"), [(20, 20), (25, 21)])
def test_no_two_classes_share_a_mark(monkeypatch, classes, groups):
    xy = np.random.default_rng(0).normal(size=(1000, 2))
    label = np.arange(1000) % classes
    names = NAMES[:classes]
    figure = drawn(
        monkeypatch, lambda: plots.plane(xy, label, names, "map.png", title="noise")
    )
    (axes,) = figure.axes
    marks = {
        (tuple(x.get_facecolor()[0]), x.get_paths()[0].vertices.tobytes())
        for x in axes.collections
    }
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(marks) == len(axes.collections) == len(texts) == groups
    assert ("5 other classes" in texts) == (classes == 25)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 40), (0, 0)])
def test_points_span_the_map(monkeypatch, shape):
    """Along its longer side at least; and the axes have the map's proportions."""
    xy = np.random.default_rng(0).uniform(size=(500, 2)) * shape + 7
    figure = drawn(
        monkeypatch, lambda: plots.plane(xy, xy[:0, 0], (), "map.png", title="noise")
    )
    (axes,) = figure.axes
    limits = np.array([axes.get_xlim(), axes.get_ylim()])
    share = np.ptp(xy, axis=0) / np.ptp(limits, axis=1)
    assert share.max() > 0.9 or shape == (0, 0)
    assert share.max() < 1
    np.testing.assert_allclose(
        np.divide(*figure.get_size_inches()), np.divide(*np.ptp(limits, axis=1))
    )


def test_no_curve_shares_a_panel_with_another_scale(monkeypatch, tmp_path):
    line = {"loss": 1.0, "probe_loss": 2.3, "lr": 0.1, "probe_accuracy": 0.3}
    lines = [{"step": i, **line, "knn_accuracy": 0.4} for i in range(1, 5)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    figure = drawn(
        monkeypatch, lambda: plots.curves(path, "x.png", train="seen", test="held_out")
    )
    curves = [{tuple(x.get_ydata()) for x in axes.lines} for axes in figure.axes]
    accuracies = {(30.0,) * 4, (40.0,) * 4}
    assert curves == [{(1.0,) * 4}, {(2.3,) * 4}, accuracies, {(0.1,) * 4}]
    texts = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert "seen" in texts[0]
    assert "held_out" in texts[1]


def test_curves_of_lines_with_different_keys(tmp_path):
    lines = [{"step": i, "loss": 5 - 0.1 * i, "lr": 0.1} for i in range(1, 40)]
    lines.insert(20, {"step": 20, "knn_accuracy": 0.4})
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    plots.curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert share(tmp_path / "curves.png", rgb(plots.COLOURS[0])) > 1e-4


def rgb(colour):
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
