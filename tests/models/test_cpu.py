"""One CPU device: which way each shape goes, and what its compiler is asked for.

That the ways compute the convolution and its gradients is in test_convolution.py.
"""

import sys

import jax
import jax.numpy as jnp
import pytest

from simclr_jax import sharding
from simclr_jax.experiment import build, config
from simclr_jax.models import cpu, resnet

KERNELS = 607  # fusions of the compiled step


def ways(encoder, size, monkeypatch):
    """The way of each distinct (side of the picture, channels, size of the kernel)."""
    seen, way = {}, cpu.way

    def recorded(picture, kernel):
        seen[picture[1], picture[3], kernel[0]] = way(picture, kernel)
        return seen[picture[1], picture[3], kernel[0]]

    monkeypatch.setattr(cpu, "way", recorded)
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8)
    with jax.set_mesh(sharding.make_mesh(jax.devices()[:1])):
        jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, False), x)
    return seen


@pytest.mark.parametrize(
    ("encoder", "size", "others"),
    [
        (
            resnet.resnet10(stem="small"),
            32,
            {(32, 3, 3): "patches", (2, 128, 3): "dense"},
        ),
        (resnet.resnet18(stem="cifar"), 32, {(32, 3, 3): "patches"}),
        (
            resnet.resnet18(stem="cifar"),
            16,
            {(16, 3, 3): "patches", (2, 512, 3): "dense"},
        ),
        (resnet.resnet50(), 224, {(224, 3, 7): "patches"}),
        (resnet.resnet50(), 64, {(64, 3, 7): "patches", (2, 512, 3): "dense"}),
    ],
)
def test_the_way_of_each_shape(encoder, size, others, monkeypatch):
    seen = ways(encoder, size, monkeypatch)
    assert len(seen) > len(others)
    assert {shape: way for shape, way in seen.items() if way != "slide"} == others


def test_several_devices_go_xla_s_way(monkeypatch):
    monkeypatch.setattr(cpu, "way", None)
    with jax.set_mesh(sharding.make_mesh(jax.devices()[:2])):
        x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
        encoder = resnet.resnet10(stem="small")
        jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, False), x)
    assert cpu.compiler_options(sharding.make_mesh()) == {}


def test_the_options_reach_the_compiler_of_the_step(monkeypatch):
    asked, jit = [], jax.jit
    monkeypatch.setattr(jax, "jit", lambda f, **kw: asked.append(kw) or jit(f, **kw))
    c = config.load("configs/quickstart.py")
    mesh = sharding.make_mesh(jax.devices()[:1])
    with jax.set_mesh(mesh):
        build.train_step(c, build.assemble(c, mesh, images=500, classes=10), mesh)
    assert asked[-1]["compiler_options"] == cpu.OPTIONS


def test_an_unknown_option_is_survived(monkeypatch):
    monkeypatch.setattr(cpu, "OPTIONS", {"xla_cpu_no_such_option": "1"})
    unknown = cpu._known_options.__wrapped__  # asks the compiler again
    monkeypatch.setattr(cpu, "_known_options", unknown)
    assert cpu.compiler_options(sharding.make_mesh(jax.devices()[:1])) == {}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="belongs to the pins of 3.12")
def test_kernels_of_the_step_of_the_quickstart():
    """Each takes tens of milliseconds to compile, which is most of the first start."""
    c = config.load("configs/quickstart.py")
    mesh = sharding.make_mesh(jax.devices()[:1])
    with jax.set_mesh(mesh):
        run = build.assemble(c, mesh, images=5000, classes=10)
        batch = build.batch_shapes(c, mesh, labels=True)
        step = build.train_step(c, run, mesh).lower(build.abstract(run), batch)
        kernels = str(step.compile().as_text()).count(" fusion(")
    assert kernels <= KERNELS
