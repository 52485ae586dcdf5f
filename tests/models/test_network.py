import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import sharding
from simclr_jax.models import vit
from simclr_jax.models.heads import projector
from simclr_jax.models.network import WHOLE_BATCH, BatchOptions, network
from simclr_jax.models.norm import BatchNorm, pixels
from simclr_jax.models.rows import WHOLE, Rows


class Tiny(nn.Module):
    """The mean colour of a picture, mixed, normalised, some of it dropped."""

    drop: float = 0.0
    width: int = 8  # of h

    @nn.compact
    def __call__(self, x, train: bool, rows: Rows = WHOLE):
        x = pixels(x, (0.0,) * 3, (1.0,) * 3, "float32").mean((1, 2))
        x = BatchNorm(name="bn")(nn.Dense(self.width)(x), train, rows)
        return nn.Dropout(self.drop, deterministic=not train)(x)


def pictures(*sizes, images=16):
    random = np.random.default_rng(0)
    return tuple(
        random.integers(0, 256, (images, s, s, 3)).astype(np.uint8) for s in sizes
    )


def build(views, **keywords):
    net = network(Tiny(), projector(out=4), options=WHOLE_BATCH, **keywords)
    return net, *net.init(jax.random.key(0), views)


KEY = jax.random.key(1)


def test_init_wants_shapes_only():
    views = pictures(6, 6)
    net, params, stats = build(views)
    assert set(params) == set(stats) == {"encoder", "projector"}
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in views]
    again, _ = net.init(jax.random.key(0), shapes)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    np.testing.assert_array_equal(stats["encoder"]["bn"]["mean"], 0)


@pytest.mark.parametrize("joint", [True, False])
def test_outputs_are_ordered_by_view_and_image(joint):
    views = pictures(6, 6)
    net, params, stats = build(views, joint=joint)
    y, _ = net.apply(params, stats, views, KEY)
    assert y.h.shape == (2, 16, 8)
    assert y.heads["projector"].shape == (2, 16, 4)
    assert set(y.heads) == {"projector"}
    assert y.h.dtype == y.heads["projector"].dtype == jnp.float32

    dense = params["encoder"]["Dense_0"]["kernel"]
    mixed = np.stack([(x / 255).mean((1, 2)) @ dense for x in views])  # [V, N, F]
    axes = (0, 1) if joint else (1,)
    mean, var = mixed.mean(axes, keepdims=True), mixed.var(axes, keepdims=True)
    np.testing.assert_allclose(y.h, (mixed - mean) / np.sqrt(var + 1e-5), atol=1e-3)


def test_views_of_several_sizes_keep_their_order():
    views = pictures(6, 4, 6)
    net, params, stats = build(views, joint=True)
    y, _ = net.apply(params, stats, views, KEY)
    pair, _ = net.apply(params, stats, (views[0], views[2]), KEY)
    alone, _ = net.apply(params, stats, (views[1],), KEY)
    np.testing.assert_allclose(y.h[jnp.array([0, 2])], pair.h, atol=1e-5)
    np.testing.assert_allclose(y.h[1], alone.h[0], atol=1e-5)


def test_running_statistics_advance_once_a_pass():
    views = pictures(6, 6)
    net, params, stats = build(views, joint=False)
    _, both = net.apply(params, stats, views, KEY)
    _, first = net.apply(params, stats, views[:1], KEY)
    _, second = net.apply(params, first, views[1:], KEY)
    same = jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-6), both, second)
    assert all(jax.tree.leaves(same))
    assert not np.allclose(first["encoder"]["bn"]["mean"], 0)


def test_encode_uses_running_statistics():
    views = pictures(6)
    net, params, stats = build(views)
    step = jax.jit(net.apply)
    for _ in range(150):  # until they are this batch's own
        y, stats = step(params, stats, views, KEY)
    once = net.encode(params, stats, views[0])
    assert once.h.shape == (1, 16, 8)
    np.testing.assert_allclose(once.h, y.h, atol=1e-3)
    np.testing.assert_allclose(once.heads["projector"], y.heads["projector"], atol=1e-2)
    one = net.encode(params, stats, views[0][:1])  # no image sees another
    np.testing.assert_allclose(one.h[0], once.h[0, :1], atol=1e-5)


def test_predictor():
    views = pictures(6, 6)
    net, params, stats = build(views, predictor=projector(out=4))
    y, _ = net.apply(params, stats, views, KEY)
    assert "predictor" in params
    assert y.heads["predictor"].shape == y.heads["projector"].shape
    assert net.encode(params, stats, views[0]).heads["predictor"].shape == (1, 16, 4)


def test_dropout_differs_by_pass_and_follows_the_key():
    views = pictures(6) * 2
    net = network(Tiny(drop=0.5), projector(out=4), options=WHOLE_BATCH)
    params, stats = net.init(jax.random.key(0), views)
    y, _ = net.apply(params, stats, views, KEY)
    again, _ = net.apply(params, stats, views, KEY)
    np.testing.assert_array_equal(y.h, again.h)
    assert not np.array_equal(y.h[0] == 0, y.h[1] == 0)
    other, _ = net.apply(params, stats, views, jax.random.key(2))
    assert not np.array_equal(y.h == 0, other.h == 0)
    still = net.encode(params, stats, views[0])
    assert (still.h != 0).all()


def test_without_a_key_there_is_no_stream_to_drop_by():
    class Dropping(nn.Module):
        width: int = 3

        @nn.compact
        def __call__(self, x, train: bool, rows: Rows = WHOLE):
            dropped = train and self.has_rng("dropout")
            return x.mean((1, 2)) * (0 if dropped else 1)

    views = pictures(6)
    net = network(Dropping(), projector(out=4), options=WHOLE_BATCH)
    params, stats = net.init(jax.random.key(0), views)
    assert (net.apply(params, stats, views, KEY)[0].h == 0).all()
    assert (net.apply(params, stats, views, None)[0].h != 0).all()


def test_joint_views_stay_on_their_devices():
    views = pictures(6, 6)
    net, params, stats = build(views, joint=True)
    mesh = sharding.make_mesh()
    placed = jax.device_put(views, sharding.by_batch(mesh))
    step = jax.jit(net.apply).lower(params, stats, placed, KEY).compile()
    moved = re.findall(r"all-gather|all-to-all|collective-permute", str(step.as_text()))
    assert not moved
    y, new = step(params, stats, placed, KEY)
    expected, stats = net.apply(params, stats, views, KEY)
    np.testing.assert_allclose(
        y.heads["projector"], expected.heads["projector"], atol=1e-4
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), new, stats)


class ThreeNorms(nn.Module):
    """Batch norms of three momenta."""

    width: int = 3

    @nn.compact
    def __call__(self, x, train: bool, rows: Rows = WHOLE):
        x = x.mean((1, 2)) / 255
        for momentum in (0.9, 0.5, 0.0):
            norm = BatchNorm(momentum=momentum, name=f"bn{momentum}")
            x = norm(x, train, rows)
        return x


@pytest.mark.parametrize("power", [1.0, 0.25, 3.0])
def test_each_batch_norm_keeps_its_own_momentum(power):
    """In training the share that stays is momentum ** momentum_power of each layer."""
    views = pictures(6)
    options = BatchOptions(momentum_power=power)
    net = network(ThreeNorms(), projector(out=4), options=options)
    params, stats = net.init(jax.random.key(0), views)
    ones = jax.tree.map(lambda x: jnp.full_like(x, 7.0), stats)  # far from the batch's
    _, batch = net.apply(params, jax.tree.map(jnp.zeros_like, stats), views, KEY)
    _, new = net.apply(params, ones, views, KEY)
    for momentum in (0.9, 0.5, 0.0):
        name = f"bn{momentum}"
        kept = new["encoder"][name]["mean"] - batch["encoder"][name]["mean"]
        np.testing.assert_allclose(kept, 7.0 * momentum**power, atol=1e-5)


def test_a_factory_builds_the_same_network_wherever_it_is_called():
    """Only its arguments count: inside a trace, a mesh or another network's pass."""
    views = pictures(6, images=32)

    def statistics():
        net = network(Tiny(), projector(out=4), options=BatchOptions(2))
        return net.apply(*net.init(jax.random.key(0), views), views, KEY)[1]

    plain = statistics()
    inside = jax.jit(statistics)()
    with jax.set_mesh(sharding.make_mesh(jax.devices()[:2])):
        on_a_mesh = jax.jit(statistics)()
    for other in (inside, on_a_mesh):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), other, plain
        )


def test_tokens_of_chosen_blocks():
    views = pictures(8, images=2)
    encoder = vit.vit_mini()
    net = network(encoder, projector(out=4), options=WHOLE_BATCH)
    params, stats = net.init(jax.random.key(0), views)
    y = net.encode(params, stats, views[0], token_blocks=(1, 3))
    assert set(y.tokens) == {1, 3}
    assert y.tokens[1].class_token.shape == (1, 2, encoder.width)
    assert y.tokens[3].patches.shape == (1, 2, 4, encoder.width)
    np.testing.assert_array_equal(y.tokens[3].class_token, y.h)  # of the last block
    assert not np.allclose(y.tokens[1].class_token, y.h, atol=1e-2)
    assert net.encode(params, stats, views[0]).tokens == {}
    with pytest.raises(ValueError, match=r"\(4,\).*blocks 0 to 3"):
        net.encode(params, stats, views[0], token_blocks=(4,))
