import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models.positions import bicubic, resample, sincos


def test_sincos_positions_of_moco_v3():
    positions = sincos(3, 2, 8)
    assert (positions.shape, positions.dtype) == ((7, 8), np.float32)
    sine, cosine = [0.84147096, 0.00999983], [0.54030234, 0.99995]
    nothing = [0, 0, 1, 1]
    expected = [[0] * 8, nothing * 2, nothing + sine + cosine, sine + cosine + nothing]
    np.testing.assert_allclose(positions[:4], expected, atol=1e-7)
    large = sincos(14, 14, 384)[1:]
    first, second = large[1], large[14]  # one column to the right; one row down
    np.testing.assert_array_equal(first[:96], 0)
    np.testing.assert_allclose(first[192:194], [0.84147096, 0.78859299], atol=1e-6)
    np.testing.assert_array_equal(second, np.roll(first, 192))


# From PyTorch's interpolate with DINO's scale factor, on 0, 1, ..., 13.
RESIZED = {
    6: [0.55354, 2.91868, 5.28523, 7.52463, 9.78115, 12.17355],
    12: [
        *(0.05901, 1.28316, 2.41818, 3.53731, 4.66378, 5.82081),
        *(7.03036, 8.22478, 9.37152, 10.4938, 11.61486, 12.85251),
    ],
    30: [-0.10764, 0.15019, 0.56988, 1.16941, 1.57057, 2.08234],
}


@pytest.mark.parametrize("new", RESIZED)
def test_resize_of_dino(new):
    resized = bicubic(14, new) @ np.arange(14)
    assert len(resized) == new
    np.testing.assert_allclose(resized[: len(RESIZED[new])], RESIZED[new], atol=6e-6)


def test_resampling_is_row_by_row_and_spares_the_class_token():
    positions = jnp.concatenate([jnp.array([99.0]), jnp.arange(16.0)])[None, :, None]
    small = resample(positions, 2, 2)[0, :, 0]
    expected = [99, 1.81215, 3.90116, 10.16819, 12.25719]
    np.testing.assert_allclose(small, expected, atol=1e-5)
    large = resample(positions, 6, 6)[0, 1:, 0].reshape(6, 6)
    corners = [-0.4424, 2.70987, 12.16669, 15.31896]
    np.testing.assert_allclose(large[::5, ::5].ravel(), corners, atol=1e-5)
    wide = resample(positions, 2, 6)[0, 1:, 0].reshape(2, 6)
    corners = [1.36124, 4.51351, 9.71728, 12.86955]  # 4 row + column of the two above
    np.testing.assert_allclose(wide[:, ::5].ravel(), corners, atol=2e-5)
    assert resample(positions, 4, 4) is positions  # not through the resize
