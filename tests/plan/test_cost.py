"""What a compiled program costs: closed forms, XLA's own counts, a real TPU program."""

import itertools
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from simclr_jax.cli import plan
from simclr_jax.experiment import config
from simclr_jax.models.resnet import resnet
from simclr_jax.plan import chips, hlo
from simclr_jax.plan.cost import Collective, cost
from simclr_jax.plan.jaxpr_flops import flops

V5E = chips.CHIPS["TPU v5 lite"]
# Compiled for v5e:2x2: the gradient, for the weights [512, 512], of the squared sum of
# three layers relu(x @ w) in a scan, x [4096, 512] split by rows, gathered at the end.
MATMULS = (pathlib.Path(__file__).parent / "matmuls_v5e.hlo").read_text()


def test_a_program_for_a_tpu():
    """Three products forward, six backward, in loops that go round three times."""
    found = cost(MATMULS, V5E, grid(2, 2))
    assert found.flops == 9 * 2 * 1024 * 512 * 512
    assert found.collectives == (
        Collective("all-gather", 1, 4096 * 512 * 2),
        Collective("all-reduce", 1, 512 * 512 * 2),
    )
    assert found.loops == 0
    # Only the rows and the weights come from main memory; all else stays in the fast.
    assert found.traffic == pytest.approx(1024 * 512 * 2 + 512 * 512 * 2, abs=1024)
    gather = 2e-6 + 2e-6 + 0.75 * 4096 * 512 * 2 / (2 * 45e9)
    reduce = 2e-6 + 2 * (2e-6 + 0.75 * 512 * 512 * 2 / (2 * 45e9))
    assert found.communication == pytest.approx(gather + reduce, rel=1e-6)
    floor = found.flops / V5E.peak
    assert floor < found.roof - found.communication
    assert found.roof < found.estimate


def grid(*sides):
    """Devices that are counted row by row."""
    return list(itertools.product(*map(range, sides)))


def compiled(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile()


def defined(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return flops(jax.jit(function).trace(*arguments).jaxpr.jaxpr)


def convolution(stride, padding, hole=1, step=1):
    def apply(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), padding, (hole, hole), (step, step),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    return apply


@pytest.mark.parametrize(
    "apply",
    [
        convolution(1, "SAME"),
        convolution(2, "SAME"),
        convolution(2, ((3, 3), (3, 3))),
        convolution(1, ((1, 2), (2, 0)), hole=2),
        convolution(1, "SAME", step=2),
    ],
    ids=["same", "stride", "padding", "hole", "step"],
)
def test_convolutions_as_xla_counts_them(apply):
    """Padding and holes are no work."""
    shapes = (4, 9, 9, 6), (3, 3, 6, 5)
    made = compiled(apply, *shapes)
    assert cost(made.as_text(), V5E).flops == made.cost_analysis()["flops"]
    assert defined(apply, *shapes) == made.cost_analysis()["flops"]


def test_products_as_xla_counts_them():
    shapes = (3, 4, 5), (3, 5, 6)
    product = partial(jnp.einsum, "nij,njk->nik")
    found = cost(compiled(product, *shapes).as_text(), V5E).flops
    assert found == defined(product, *shapes) == 2 * 3 * 4 * 5 * 6


def test_a_network_by_definition():
    """ResNet-50 has 4.09e9 multiplications a picture, some of them with padding."""
    encoder = resnet(50)
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(partial(encoder.init, train=False), jax.random.key(0), x)
    forward = jax.make_jaxpr(partial(encoder.apply, train=False))(params, x)
    assert 0.96 * 4.09e9 < flops(forward.jaxpr) / 2 / 2 < 4.09e9

    def loss(params, x):
        return encoder.apply(params, x, train=False).sum()

    both = jax.make_jaxpr(jax.grad(loss))(params, x)
    assert flops(both.jaxpr) == pytest.approx(3 * flops(forward.jaxpr), rel=0.005)


def test_a_loop_counts_as_often_as_it_goes_round():
    def seven(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=7)[0]

    made = compiled(seven, (64, 32), (32, 32))
    found = cost(made.as_text(), V5E)
    assert found.flops == 7 * 2 * 64 * 32 * 32 == defined(seven, (64, 32), (32, 32))
    assert found.loops == 0


def test_a_loop_of_unknown_length_is_told():
    def until(x, w):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x @ w, x)

    found = cost(compiled(until, (8, 8), (8, 8)).as_text(), V5E)
    assert found.loops == 1
    assert found.flops == 2 * 8**3


def test_types():
    told = "(f32[2,3]{1,0:T(8,128)}, bf16[4]{0:S(1)}, pred[]{:T(512)S(6)}, u32[0]{0})"
    assert hlo.arrays(told) == [
        hlo.Array((2, 3), 24, True),
        hlo.Array((4,), 8, False),
        hlo.Array((), 1, False),
        hlo.Array((0,), 0, True),
    ]
    assert hlo.size(told) == 33
    assert hlo.far(told) == 24


@pytest.mark.parametrize(
    ("kind", "sides", "expected"),
    [
        ("all-gather", (1, 1), 0.0),
        # A ring of 16: half of it to the farthest, both ways at once.
        ("all-gather", (16,), 2e-6 + 8e-6 + 15 / 16 * 9e6 / 90e9),
        ("all-reduce", (16,), 2e-6 + 2 * (8e-6 + 15 / 16 * 9e6 / 90e9)),
        # A row of 8, open: seven hops, one way.
        ("all-gather", (8,), 2e-6 + 7e-6 + 7 / 8 * 9e6 / 45e9),
        ("collective-permute", (8, 8), 2e-6 + 1e-6 + 9e6 / 45e9),
    ],
)
def test_seconds_of_a_message(kind, sides, expected):
    assert chips.seconds(kind, 9_000_000, sides, V5E) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("said", "devices"),
    [
        ("replica_groups={}", []),
        ("replica_groups={{0,2},{1,3}}", [0, 2]),
        ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
        ("replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}", [0, 2, 4, 6]),
        ("replica_groups=[4,4]<=[2,2,4]T(2,0,1)", [0, 4, 8, 12]),
        ("replica_groups=mesh['data'=16] {'data'}", []),
        ("replica_groups=mesh['data'=16] {'data':(4)4}, to_apply=%sum", [0, 1, 2, 3]),
        ("replica_groups=mesh['data'=16] {'data':(1)4}", [0, 4, 8, 12]),
        ("replica_groups=mesh['data'=16] {'data':(2)4}", [0, 2, 4, 6]),
    ],
)
def test_who_talks_to_whom(said, devices):
    op = hlo.Op("all-reduce.1", "f32[3]", "all-reduce", ["a"], said)
    assert hlo.group(op) == devices


@pytest.mark.parametrize(
    ("kind", "groups", "bytes", "sides"),
    [
        ("all-reduce", "[1,8]<=[8]", 512, (4, 2)),
        ("all-reduce", "[2,4]<=[8]", 512, (2, 2)),  # two rows of the grid
        ("all-reduce", "[2,4]<=[4,2]T(1,0)", 512, (4, 1)),  # a column
        ("all-reduce", "mesh['data'=8] {'data':(1)4}", 512, (4, 1)),
        ("all-gather", "[1,8]<=[8]", 4096, (4, 2)),
        ("reduce-scatter", "[1,8]<=[8]", 512, (4, 2)),
    ],
)
def test_a_message_is_as_long_as_its_whole_buffer_and_goes_as_far_as_its_group(
    kind, groups, bytes, sides
):
    out = {"all-gather": "f32[1024]", "reduce-scatter": "f32[16]"}.get(kind, "f32[128]")
    text = (
        "ENTRY %main (a: f32[128]) -> f32[] {\n"
        "  %a = f32[128]{0} parameter(0)\n"
        f"  ROOT %b = {out}{{0}} {kind}(%a), replica_groups={groups}\n}}\n"
    )
    found = cost(text, V5E, grid(4, 2))
    assert found.collectives == (Collective(kind, 1, bytes),)
    assert found.communication == chips.seconds(kind, bytes, sides, V5E)


def test_a_plan_for_people():
    step = cost(MATMULS, V5E, grid(2, 2))
    said = {
        "fits": True,
        "hbm_bytes_per_chip": 3 * 2**30,
        "hbm_capacity_bytes": V5E.hbm,
        "chips": 4,
        "steps": 10**9,
        "bytes_per_image": 301_056,
        "flops_by_definition": step.flops,
        "config": config.plain(config.load("configs/simclr_imagenet.py")),
        **plan.figures(step, V5E, batch=4096, steps=10**9, chips=4),
    }
    assert said["hours"][0] == pytest.approx(1e9 * step.roof / 3600)
    assert said["images_per_second_bound"] == pytest.approx(4096 / step.roof)
    text = plan.report(said)
    assert "3.00 of 16 GiB" in text
    assert "1 all-gather (4.2 MB), 1 all-reduce (0.5 MB)" in text
    assert "not measured" in text
    assert f"{4096 / step.roof * 301_056 / 4e6:.0f} MB/s a chip" in text
    said |= {"fits": False, "hbm_bytes_per_chip": 15.9 * 2**30}
    refused = plan.report(said | {"hbm_missing_bytes": 0.15 * 2**30})
    assert "does not fit: 15.90 of 16 GiB a chip are asked for, 0.1 GiB more" in refused
    assert "programs. Try optim.microbatches=2, placement=fsdp, more chips" in refused
    said["config"]["encoder"]["dtype"] = "float32"
    said["config"]["placement"] = "fsdp"
    refused = plan.report(said | {"hbm_missing_bytes": 0})
    assert "Try encoder.dtype=bfloat16, optim.microbatches=2, more chips" in refused


def test_chips_of_two_devices_share_memory_and_bandwidth():
    """On v3 JAX counts cores: each has half of the chip's bandwidth and peak."""
    v3 = chips.CHIPS["TPU v3"]
    both = v3._replace(devices=1)
    half, whole = (cost(MATMULS, chip) for chip in (v3, both))
    assert half.roof == pytest.approx(2 * whole.roof)
    said = plan.figures(half, v3, batch=1, steps=1, chips=1)
    assert said["flops_per_chip"] == 2 * half.flops
