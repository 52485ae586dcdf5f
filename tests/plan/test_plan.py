"""The command `plan`. The long tests compile for real topologies.

They need the compiler for TPUs, `pip install "jax[tpu]"`, and minutes each.
"""

import importlib.metadata
import json
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax import sharding
from simclr_jax.cli import common, plan
from simclr_jax.data import pipeline
from simclr_jax.data.prefetch import feed
from simclr_jax.data.sources import open_source
from simclr_jax.experiment import build, config, planning
from simclr_jax.experiment.config_files import shipped_names
from simclr_jax.losses.contrastive import nt_xent
from simclr_jax.methods.catalog import METHODS
from simclr_jax.plan import compiler
from simclr_jax.plan.report import input_text
from simclr_jax.reproduce.rows import PLANS
from tests.tools import temporary_bytes


@pytest.mark.parametrize(
    ("colour", "placement"), [("host", "replicated"), ("device", "fsdp")]
)
def test_the_planned_step_is_that_of_training(colour, placement):
    c, mesh = config.load("configs/quickstart.py"), sharding.make_mesh()
    small = [("data.batch_size", "8"), ("encoder.channels", "4")]
    config.override(c, [*small, ("data.colour", colour), ("placement", placement)])
    source = open_source("cifar10_mini", split="train")
    with jax.set_mesh(mesh):
        run = build.assemble(c, mesh, images=len(source), classes=10)
        batches = pipeline.train_batches(
            source, build.recipe(c), batch_size=8, seed=0, first_step=0, steps=1,
            colour=colour,
        )  # fmt: skip
        batch, state = next(feed(batches, mesh)), run.create()
        shapes = build.batch_shapes(c, mesh, labels=True)
        step = build.train_step(c, run, mesh)
        trained = step.lower(state, batch).as_text()
        planned = step.lower(build.abstract(run), shapes).as_text()
    assert trained == planned


def test_without_the_compiler_the_error_names_the_package(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    argv = ["--config=configs/quickstart.py", "--topology=v5e:2x2"]
    with pytest.raises(common.UsageError, match=r"pip install 'jax\[tpu\]==\d"):
        plan.main(argv)


@pytest.mark.parametrize(
    "message",
    [
        "Ran out of memory on HBM, the total memory required for HLO temporaries "
        "(69.50G) exceeds available HBM (15.75G). HLO module: x.",
        "Ran out of memory in memory space hbm. Used 69.50G of 15.75G hbm. Exceeded "
        "hbm capacity by 53.75G.",
    ],
)
def test_the_compilers_error_is_parsed(message):
    assert compiler.parse_exceeded(message) == (69.5 * 2**30, 15.75 * 2**30)


def test_the_memory_of_donated_arguments_counts_once():
    x = jax.ShapeDtypeStruct((2**20,), "float32")  # 4 MiB
    for donated, mib in ((), 8), ((0,), 4):
        step = jax.jit(lambda x: x + 1, donate_argnums=donated)
        used = compiler.required_memory(step.lower(x).compile())
        assert used == pytest.approx(mib * 2**20, abs=2**16)


def test_a_program_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "versions", lambda: {"jax": "1", "libtpu": "2"})
    messages = []

    def compile_once(function, topology="v5e:2x2"):
        """Whether it was compiled, and the result."""
        messages.clear()
        lowered = jax.jit(function).lower(jax.ShapeDtypeStruct((4,), "float32"))
        result = compiler.compile_once(lowered, topology, messages.append)
        return any("compiling" in message for message in messages), result

    new, program = compile_once(lambda x: x + 1)
    assert new
    assert compile_once(lambda x: x + 1) == (False, program)
    for damaged in tmp_path.rglob("*.gz"):
        damaged.write_bytes(b"half a fi")
    assert compile_once(lambda x: x + 1) == (True, program)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib=65536")
    for function, topology in (
        (lambda x: x + 1, "v5e:2x2"),
        (lambda x: x + 2, "v5e:2x2"),
        (lambda x: x + 1, "v4:2"),
    ):
        assert compile_once(function, topology)[0]


def test_progress_is_reported_while_the_compiler_runs():
    messages = []
    with compiler.reporting("compiling", messages.append, interval=0.01):
        time.sleep(0.2)
    assert "compiling: 0 s so far" in messages


def need_the_compiler():
    try:
        importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip('needs the compiler for TPUs: pip install "jax[tpu]"')


def run_plan(tmp_path, *argv):
    """Runs the command; returns the process and the path of the plan."""
    need_the_compiler()
    path = tmp_path / "plan.json"
    command = [sys.executable, "-m", "simclr_jax", "plan", f"--json={path}"]
    process = subprocess.run([*command, *argv], capture_output=True, text=True)
    return process, path


def test_every_method_has_a_plan_for_imagenet():
    names = {row.config.partition(":")[0].removesuffix("_imagenet") for row in PLANS}
    imagenet = {name for name in METHODS if f"{name}_imagenet" in shipped_names()}
    imagenet.remove("supervised")  # a baseline, with a ResNet-50's step and no head
    assert not imagenet - names, "without a line in simclr_jax/reproduce/plans.csv"


@pytest.mark.long
@pytest.mark.parametrize("row", PLANS, ids=lambda row: f"{row.config}-{row.topology}")
def test_a_plan_can_be_compiled_again(row, tmp_path):
    options = [f"--config={row.config}", f"--topology={row.topology}"]
    process, path = run_plan(tmp_path, *options)
    assert process.returncode == 0, process.stderr
    numbers = json.loads(path.read_text())
    assert numbers["fits"]
    if (row.jax, row.libtpu) != (numbers["jax"], numbers["libtpu"]):
        pytest.skip("fits; the table is of other versions of the compiler")
    gib = numbers["hbm_bytes_per_chip"] / 2**30
    assert gib == pytest.approx(row.gib_per_chip, rel=0.02)
    assert numbers["roof_ms"] == pytest.approx(row.roof_ms, rel=0.02)
    assert numbers["est_ms"] == pytest.approx(row.estimate_ms, rel=0.02)
    assert numbers["roof_ms"] < numbers["est_ms"]


@pytest.mark.long
def test_a_step_that_does_not_fit_and_an_unknown_topology(tmp_path):
    argv = ["--config=configs/quickstart.py", "--images=300000", "--classes=10"]
    process, path = run_plan(
        tmp_path, *argv, "--topology=v5e:1x1", "--config.data.batch_size=262144"
    )
    assert process.returncode == 0, process.stderr
    assert "does not fit" in process.stdout
    assert not json.loads(path.read_text())["fits"]
    process, _ = run_plan(tmp_path, *argv, "--topology=v5e:3x3")
    assert process.returncode == 2
    assert "v5e:3x3" in process.stderr
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.long
@pytest.mark.parametrize("gather", ["float32", "bfloat16"])
@pytest.mark.parametrize("n", [131_072, 1_048_576])
def test_nt_xent_of_a_million_images_needs_memory_for_z_only(n, gather):
    """On 256 chips; the matrix of similarities would need (2n)^2 / 64 bytes of each."""
    need_the_compiler()
    mesh = sharding.make_mesh(compiler.devices("v5e:16x16"))
    rows = NamedSharding(mesh, P(None, sharding.DATA))
    z = jax.ShapeDtypeStruct((2, n, 128), "float32", sharding=rows)
    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(lambda z: nt_xent(z, 0.1, gather=gather)[0]))
        compiled = step.lower(z).compile()
    gathered = 2 * n * 128 * jnp.dtype(gather).itemsize
    assert temporary_bytes(compiled) <= gathered + 2**20


def test_a_plan_may_measure_the_input():
    c = config.load("configs/simclr_cifar10.py")
    argv = ["--config=configs/simclr_cifar10.py", "--topology=v5e:2x2"]
    with pytest.raises(common.UsageError, match="cifar10_mini"):
        plan.main([*argv, "--input=cifar10_mni"])
    source = open_source("cifar10_mini", split="train")
    measured: dict[str, Any] = planning.measure_input(c, source, seconds=0.1)
    assert measured["name"] == "cifar10_mini/train"
    assert measured["images_per_core_second"] > 0
    measured["images_per_core_second"] = 50.0
    text = input_text({"images_per_second_bound": 1000.0, "input": measured})
    assert "from 20 cores such as one here, which made 50 images/s" in text
