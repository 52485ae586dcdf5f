"""What the methods share."""

import numpy as np
import pytest

from simclr_jax.methods.base import cosine_to_one


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (0.996, (0.996, 0.9965857864, 0.998, 0.9994142136, 1)),
        (0.99, (0.99, 0.9914644661, 0.995, 0.9985355339, 1)),
    ],
)
def test_the_target_comes_to_rest_by_a_cosine(start, expected):
    """tau of BYOL; also m of MoCo v3 over 300 epochs, at 0, 75, 150 and 225 of them."""
    ema = cosine_to_one(start, 4000)
    seen = [ema(step) for step in (0, 1000, 2000, 3000, 4000)]
    np.testing.assert_allclose(seen, expected, rtol=2e-7)


@pytest.mark.parametrize("start", [-0.1, 1.5])
def test_an_ema_that_is_none(start):
    with pytest.raises(ValueError, match="from 0 to 1"):
        cosine_to_one(start, 10)
