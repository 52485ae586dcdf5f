"""Windows of whole batches equal those of single pictures, to the pixel."""

import numpy as np
import pytest

from simclr_jax.data import augment
from simclr_jax.data.crop_windows import _Philox, draw_windows
from simclr_jax.data.view import View
from tests.data.test_augment import one_by_one

N = 2000


@pytest.mark.parametrize("crop", ["tf_bbox", "inception_log", "torch"])
@pytest.mark.parametrize(
    ("side", "options"),
    [
        (32, {}),
        (64, {}),
        (32, {"area": (0.05, 0.4)}),
        (33, {"area": (0.9, 1.0)}),  # most tries fail
        (32, {"area": (0.95, 1.0), "aspect": (0.5, 0.6)}),  # all do
        (3, {"aspect": (0.5, 2.0)}),
        (1, {}),
        (32, {"crop_probability": 0.4}),
        (32, {"crop_probability": 0.0}),
    ],
)
def test_windows_equal_those_of_single_pictures(crop, side, options):
    view = View(size=32, crop=crop, **options)
    keys = augment.crop_keys(2, 5, 3, np.arange(N))[:, 1]
    result = draw_windows(side, keys, view)
    assert result.dtype == np.int32
    np.testing.assert_array_equal(result, one_by_one(side, side, keys, view))


def test_biased_numbers_are_rejected():
    """Below 3 * 2^30 one in four: a side that no test could draw windows of."""
    rows, n = np.arange(N), np.full(N, 3 * 2**30)
    random = _Philox(augment.crop_keys(1, 0, 0, rows)[:, 0])
    drawn = random.take_below(rows, n)
    assert drawn.max() < 3 * 2**30
    assert abs(drawn.mean() / (3 * 2**30) - 0.5) < 0.03
    assert 0.2 < (random._position > 1).mean() < 0.3
