"""The networks of each method have the sizes and the layers of the released ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.batch import Batch
from simclr_jax.losses.neighbours import cauchy
from simclr_jax.losses.regression import cosine
from simclr_jax.methods.catalog import METHODS
from simclr_jax.models import resnet
from simclr_jax.models.catalog import ENCODERS
from simclr_jax.models.heads import MLP, Layer
from simclr_jax.models.norm import BatchNorm
from tests.tools import ANY_VIEWS, METHOD_WIDTHS, Tiny, small_batch


def shapes(name, encoder, side=224, **keywords):
    method = METHODS[name](encoder, **keywords)
    views = [jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)] * 2
    return jax.eval_shape(method.init, jax.random.key(0), views)


def initial(module, *inputs) -> Any:
    """The initial parameters of a module."""
    return module.init(jax.random.key(0), *inputs)["params"]


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


R50 = ENCODERS["resnet50"]


def test_moco():
    """Both networks, as the released code counts them."""
    for keywords, total in (({"layers": 1}, 47_540_608), ({}, 55_933_312)):
        state = shapes("moco", R50(), **keywords)
        assert count((state.params, state.target_params)) == total
    assert state.method_state["queue"].shape == (65536, 128)


def test_mocov3():
    state = shapes("mocov3", R50(), total_steps=10)
    assert count((state.params, state.target_params)) == 68_012_160
    assert set(state.params) == {"encoder", "projector", "predictor"}
    assert set(state.target_params) == {"encoder", "projector"}
    assert set(state.params["projector"]) == {"dense1", "bn1", "dense2"}  # bn2 is bare
    assert "bn2" in state.model_state["online"]["projector"]
    assert "bn2" not in state.model_state["online"]["predictor"]


def test_byol():
    state = shapes("byol", R50(), total_steps=10)
    sizes = {name: count(tree) for name, tree in state.params.items()}
    assert sizes == {
        "encoder": 23_508_032,
        "projector": 9_449_472,
        "predictor": 2_109_440,
    }
    assert "bias" in state.params["projector"]["dense1"]
    assert set(state.params["projector"]["dense2"]) == {"kernel"}


def test_simsiam():
    """Less the 2048 frozen biases that the last batch norm cancels."""
    state = shapes("simsiam", R50())
    assert count(state.params) == 38_201_408 - 2048
    assert set(state.params["predictor"]) == {"dense1", "bn1", "dense2"}
    assert set(state.params["predictor"]["dense2"]) == {"kernel", "bias"}


@pytest.mark.parametrize(("out", "total"), [(128, 656_512), (2, 527_362)])
def test_tsimcne(out, total):
    encoder = ENCODERS["resnet18"](stem="cifar", shortcut="needed")
    state = shapes("tsimcne", encoder, 32, out=out)
    sizes = {name: count(tree) for name, tree in state.params.items()}
    assert sizes == {"encoder": 11_168_832, "projector": total}
    assert set(state.params["projector"]) == {"dense1", "dense2"}  # no batch norm
    assert set(state.model_state["online"]) == {"encoder"}


def test_tsimcne_compares_as_they_are_both_views_of_one_pass():
    """z without normalising, of one batch of both views: statistics of 2N pictures."""
    batch = small_batch(8)
    method = METHODS["tsimcne"](Tiny(), **METHOD_WIDTHS["tsimcne"])
    state = method.init(jax.random.key(0), batch.views)
    loss, (_, y, _) = method.loss(state.params, state.for_loss(), batch, state.rng)
    np.testing.assert_allclose(loss, cauchy(y.heads["projector"])[0], rtol=1e-6)
    assert np.ptp(np.linalg.norm(y.heads["projector"], axis=-1)) > 1e-3
    mixed = batch.replace(views=(batch.views[0], batch.views[0][::-1]))
    _, (_, once, _) = method.loss(state.params, state.for_loss(), mixed, state.rng)
    assert np.abs(once.h[0] - y.h[0]).max() > 1e-3  # the other view has its part in h


def test_torchvision_s_resnet18():
    """CIFAR's: no projection where neither width nor size changes."""
    encoder = ENCODERS["resnet18"](stem="cifar", shortcut="needed")
    assert count(shapes("simsiam", encoder, 32).params["encoder"]) == 11_168_832


@pytest.mark.parametrize(
    ("initializer", "std", "bound"),
    [
        ("torch", (3 * 64) ** -0.5, 1 / 8),
        ("haiku", 0.8796 / 8, 2 / 8),
        ("simclr", 0.01, 1),
        ("normal", 1.0, 6),
    ],
)
def test_first_weights_of_heads(initializer, std, bound):
    head = MLP((Layer(512, bias=True, norm=""),), initializer)
    params = initial(head, jnp.ones((1, 64)), False)["dense1"]
    assert np.std(params["kernel"]) == pytest.approx(std, rel=0.02)
    assert np.abs(params["kernel"]).max() <= bound
    assert (np.abs(params["bias"]).max() > 0) == (initializer in ("torch", "normal"))
    assert np.abs(params["bias"]).max() <= 1 / 8


def test_a_layer_may_start_in_its_own_way():
    layers = (Layer(64, norm=""), Layer(64, norm="", initializer="normal"))
    params = initial(MLP(layers), jnp.ones((1, 64)), False)
    assert np.std(params["dense1"]["kernel"]) == pytest.approx(192**-0.5, rel=0.05)
    assert np.std(params["dense2"]["kernel"]) == pytest.approx(1, rel=0.05)
    with pytest.raises(ValueError, match="initializer = 'wide' is not one of 'simclr'"):
        MLP((Layer(64, initializer="wide"),))


@pytest.mark.parametrize("initializer", ["he", "haiku"])
def test_first_kernels_of_resnets(initializer):
    x = jnp.zeros((1, 4, 4, 64))
    conv = resnet.Conv(128, 3, initializer=initializer)
    kernel = initial(conv, x)["kernel"]
    unit = (9 * 64) ** -0.5
    std = {"he": (2 / (9 * 128)) ** 0.5, "haiku": 0.8796 * unit}[initializer]
    assert np.std(kernel) == pytest.approx(std, rel=0.02)
    assert (np.abs(kernel).max() <= 2 * unit) == (initializer == "haiku")


@pytest.mark.parametrize("zero", [True, False])
def test_last_scales_start_as_asked(zero):
    x = jnp.zeros((1, 4, 4, 8))
    block = resnet.Block(8, 1, False, False, 0.0, zero, resnet.Conv, BatchNorm)
    params = initial(block, x, False)
    assert (params["bn2"]["scale"] == (0 if zero else 1)).all()
    assert (params["bn1"]["scale"] == 1).all()


def test_simsiam_compares_across_views():
    """The loss, recomputed from what the network says."""
    batch = small_batch(8)
    method = METHODS["simsiam"](Tiny(), **METHOD_WIDTHS["simsiam"])
    state = method.init(jax.random.key(0), batch.views)
    loss, (_, y, _) = method.loss(state.params, state.for_loss(), batch, state.rng)
    expected = (
        -(
            cosine(y.heads["predictor"][0], y.heads["projector"][1])
            + cosine(y.heads["predictor"][1], y.heads["projector"][0])
        )
        / 2
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    swapped = batch.replace(views=batch.views[::-1])
    again, _ = method.loss(state.params, state.for_loss(), swapped, state.rng)
    np.testing.assert_allclose(loss, again, rtol=1e-5)


@pytest.mark.parametrize("name", list(METHODS))
def test_three_views_are_not_two(name):
    if name in ANY_VIEWS:
        pytest.skip("it takes any number")
    views = small_batch(4).views
    method = METHODS[name](Tiny(), **METHOD_WIDTHS[name])
    state = method.init(jax.random.key(0), views)
    with pytest.raises(ValueError, match=r"two views of each picture.* makes 3"):
        method.loss(
            state.params, state.for_loss(), Batch(views=(*views, views[0])), state.rng
        )


@pytest.mark.parametrize("name", ["simclr", "moco", "mocov3", "simsiam"])
@pytest.mark.parametrize("layers", [0, -2])
def test_a_head_has_a_layer(name, layers):
    words = {"total_steps": 10} if name == "mocov3" else {}
    with pytest.raises(ValueError, match=f"at least 1 layer; got layers = {layers}"):
        METHODS[name](Tiny(), layers=layers, **words)
