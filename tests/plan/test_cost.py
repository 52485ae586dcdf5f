"""The cost of a program, against closed forms and XLA's own counts."""

import itertools
import pathlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from simclr_jax.experiment import config
from simclr_jax.models.resnet import resnet
from simclr_jax.plan import hlo
from simclr_jax.plan.chips import CHIPS, collective_seconds
from simclr_jax.plan.cost import Collective, cost
from simclr_jax.plan.jaxpr_flops import flops
from simclr_jax.plan.report import report, run_numbers

V5E = CHIPS["TPU v5 lite"]
# Compiled for v5e:2x2: the gradient, for the weights [512, 512], of the squared sum of
# three layers relu(x @ w) in a scan, x [4096, 512] split by rows, gathered at the end.
MATMULS = (pathlib.Path(__file__).parent / "matmuls_v5e.hlo").read_text()


def test_a_program_for_a_tpu():
    """Three products forward, six backward, in loops of three iterations."""
    result = cost(MATMULS, V5E, grid(2, 2))
    assert result.flops == 9 * 2 * 1024 * 512 * 512
    assert result.collectives == (
        Collective("all-gather", 1, 4096 * 512 * 2),
        Collective("all-reduce", 1, 512 * 512 * 2),
    )
    assert result.loops == 0
    # Only the rows and the weights are read from main memory.
    assert result.traffic == pytest.approx(1024 * 512 * 2 + 512 * 512 * 2, abs=1024)
    gather = 2e-6 + 2e-6 + 0.75 * 4096 * 512 * 2 / (2 * 45e9)
    reduce = 2e-6 + 2 * (2e-6 + 0.75 * 512 * 512 * 2 / (2 * 45e9))
    assert result.communication == pytest.approx(gather + reduce, rel=1e-6)
    floor = result.flops / V5E.peak
    assert floor < result.roof - result.communication
    assert result.roof < result.estimate


def grid(*sides):
    """The coordinates of devices in row-major order."""
    return list(itertools.product(*map(range, sides)))


def compiled(function, *shapes) -> Any:
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*args).compile()


def jaxpr_flops(function, *shapes):
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return flops(jax.jit(function).trace(*args).jaxpr.jaxpr)


def convolution(stride, padding, lhs_dilation=1, rhs_dilation=1):
    def apply(x, w):
        return jax.lax.conv_general_dilated(
            x,
            w,
            (stride, stride),
            padding,
            (lhs_dilation, lhs_dilation),
            (rhs_dilation, rhs_dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    return apply


@pytest.mark.parametrize(
    "apply",
    [
        convolution(1, "SAME"),
        convolution(2, "SAME"),
        convolution(2, ((3, 3), (3, 3))),
        convolution(1, ((1, 2), (2, 0)), lhs_dilation=2),
        convolution(1, "SAME", rhs_dilation=2),
    ],
    ids=["same", "stride", "padding", "lhs_dilation", "rhs_dilation"],
)
def test_convolutions_are_counted_as_by_xla(apply):
    """Padding and the zeros of a dilated input do not count."""
    shapes = (4, 9, 9, 6), (3, 3, 6, 5)
    made = compiled(apply, *shapes)
    assert cost(made.as_text(), V5E).flops == made.cost_analysis()["flops"]
    assert jaxpr_flops(apply, *shapes) == made.cost_analysis()["flops"]


def test_products_are_counted_in_full():
    shapes = (3, 4, 5), (3, 5, 6)
    product = partial(jnp.einsum, "nij,njk->nik")
    result = cost(compiled(product, *shapes).as_text(), V5E).flops
    assert result == jaxpr_flops(product, *shapes) == 2 * 3 * 4 * 5 * 6


def test_the_flops_of_a_network():
    """ResNet-50 has 4.09e9 multiplications a picture, some of them by padding."""
    encoder = resnet(50)
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(partial(encoder.init, train=False), jax.random.key(0), x)
    forward = jax.make_jaxpr(partial(encoder.apply, train=False))(params, x)
    assert 0.96 * 4.09e9 < flops(forward.jaxpr) / 2 / 2 < 4.09e9

    def loss(params, x):
        h: Any = encoder.apply(params, x, train=False)
        return h.sum()

    both = jax.make_jaxpr(jax.grad(loss))(params, x)
    assert flops(both.jaxpr) == pytest.approx(3 * flops(forward.jaxpr), rel=0.005)


def test_each_iteration_of_a_loop_counts():
    def seven(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=7)[0]

    made = compiled(seven, (64, 32), (32, 32))
    result = cost(made.as_text(), V5E)
    assert (
        result.flops == 7 * 2 * 64 * 32 * 32 == jaxpr_flops(seven, (64, 32), (32, 32))
    )
    assert result.loops == 0


def test_loops_of_unknown_length_are_reported():
    def until(x, w):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x @ w, x)

    result = cost(compiled(until, (8, 8), (8, 8)).as_text(), V5E)
    assert result.loops == 1
    assert result.flops == 2 * 8**3


def test_types_are_parsed():
    text = "(f32[2,3]{1,0:T(8,128)}, bf16[4]{0:S(1)}, pred[]{:T(512)S(6)}, u32[0]{0})"
    assert hlo.arrays(text) == [
        hlo.Array((2, 3), 24, True),
        hlo.Array((4,), 8, False),
        hlo.Array((), 1, False),
        hlo.Array((0,), 0, True),
    ]
    assert hlo.size(text) == 33
    assert hlo.hbm_size(text) == 24


@pytest.mark.parametrize(
    ("kind", "sides", "expected"),
    [
        ("all-gather", (1, 1), 0.0),
        # A ring of 16: eight hops, in both directions at once.
        ("all-gather", (16,), 2e-6 + 8e-6 + 15 / 16 * 9e6 / 90e9),
        ("all-reduce", (16,), 2e-6 + 2 * (8e-6 + 15 / 16 * 9e6 / 90e9)),
        # A row of 8, not closed to a ring: seven hops, in one direction.
        ("all-gather", (8,), 2e-6 + 7e-6 + 7 / 8 * 9e6 / 45e9),
        ("collective-permute", (8, 8), 2e-6 + 1e-6 + 9e6 / 45e9),
    ],
)
def test_seconds_of_a_collective(kind, sides, expected):
    assert collective_seconds(kind, 9_000_000, sides, V5E) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "devices"),
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
def test_the_first_group_of_a_collective(text, devices):
    op = hlo.Op("all-reduce.1", "f32[3]", "all-reduce", ["a"], text)
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
def test_a_collective_is_charged_its_whole_buffer_over_the_box_of_its_group(
    kind, groups, bytes, sides
):
    out = {"all-gather": "f32[1024]", "reduce-scatter": "f32[16]"}.get(kind, "f32[128]")
    text = (
        "ENTRY %main (a: f32[128]) -> f32[] {\n"
        "  %a = f32[128]{0} parameter(0)\n"
        f"  ROOT %b = {out}{{0}} {kind}(%a), replica_groups={groups}\n}}\n"
    )
    result = cost(text, V5E, grid(4, 2))
    assert result.collectives == (Collective(kind, 1, bytes),)
    assert result.communication == collective_seconds(kind, bytes, sides, V5E)


def test_a_plan_as_text():
    step = cost(MATMULS, V5E, grid(2, 2))
    plan: dict[str, Any] = {
        "fits": True,
        "hbm_bytes_per_chip": 3 * 2**30,
        "hbm_capacity_bytes": V5E.hbm,
        "chips": 4,
        "steps": 10**9,
        "bytes_per_image": 301_056,
        "flops_by_definition": step.flops,
        "config": config.plain(config.load("configs/simclr_imagenet.py")),
        **run_numbers(step, V5E, batch=4096, steps=10**9, chips=4),
    }
    assert plan["hours"][0] == pytest.approx(1e9 * step.roof / 3600)
    assert plan["images_per_second_bound"] == pytest.approx(4096 / step.roof)
    text = report(plan)
    assert "3.00 of 16 GiB" in text
    assert "1 all-gather (4.2 MB), 1 all-reduce (0.5 MB)" in text
    assert "not measured" in text
    assert f"{4096 / step.roof * 301_056 / 4e6:.0f} MB/s a chip" in text
    plan |= {"fits": False, "hbm_bytes_per_chip": 15.9 * 2**30}
    text = report(plan | {"hbm_missing_bytes": 0.15 * 2**30})
    assert "does not fit: 15.90 of 16 GiB a chip are required, 0.1 GiB more" in text
    assert "Try optim.microbatches=2, placement=fsdp, more chips" in text
    plan["config"]["encoder"]["dtype"] = "float32"
    plan["config"]["placement"] = "fsdp"
    text = report(plan | {"hbm_missing_bytes": 0})
    assert "Try encoder.dtype=bfloat16, optim.microbatches=2, more chips" in text


def test_the_two_devices_of_a_chip_share_its_bandwidth_and_peak():
    """On v3, where a device is a core."""
    v3 = CHIPS["TPU v3"]
    undivided = v3._replace(devices=1)
    half, whole = (cost(MATMULS, chip) for chip in (v3, undivided))
    assert half.roof == pytest.approx(2 * whole.roof)
    numbers = run_numbers(half, v3, batch=1, steps=1, chips=1)
    assert numbers["flops_per_chip"] == 2 * half.flops
