"""The planning door: that it compiles what the trainer runs; on real topologies, long.

Those need the compiler for TPUs, `pip install "jax[tpu]"`, and minutes each.
"""

import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax import sharding
from simclr_jax.cli import common, data_bench, plan
from simclr_jax.data import pipeline
from simclr_jax.data.prefetch import feed
from simclr_jax.data.sources import open_source
from simclr_jax.experiment import build, config
from simclr_jax.losses.contrastive import nt_xent
from simclr_jax.methods.catalog import METHODS
from simclr_jax.plan import compiler

ROW = re.compile(
    r"^\| `(\w+_imagenet\S*)` \| (\d+) \| (v\S+) \| ([\d.]+) "
    r"\| (?:-|([\d.]+) to ([\d.]+)) \|",
    re.M,
)
README = pathlib.Path("README.md").read_text()
PLANS = ROW.findall(README)


@pytest.mark.parametrize(
    ("colour", "placement"), [("host", "replicated"), ("device", "fsdp")]
)
def test_the_planned_step_is_the_one_that_is_trained(colour, placement):
    c, mesh = config.load("configs/quickstart.py"), sharding.make_mesh()
    less = [("data.batch_size", "8"), ("encoder.channels", "4")]
    config.override(c, [*less, ("data.colour", colour), ("placement", placement)])
    source = open_source("cifar10_mini", split="train")
    with jax.set_mesh(mesh):
        job = build.assemble(c, mesh, images=len(source), classes=10)
        batches = pipeline.train_batches(
            source, build.recipe(c), batch_size=8, seed=0, start_step=0, steps=1,
            colour=colour,
        )  # fmt: skip
        batch, state = next(feed(batches, mesh)), job.create()
        shapes = build.batch_shapes(c, mesh, labels=True)
        step = build.train_step(c, job, mesh)
        trained = step.lower(state, batch).as_text()
        planned = step.lower(build.abstract(job), shapes).as_text()
    assert trained == planned


def test_without_the_compiler_a_line_says_how_to_get_it(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    words = ["--config=configs/quickstart.py", "--topology=v5e:2x2"]
    with pytest.raises(common.UsageError, match=r"pip install 'jax\[tpu\]==\d"):
        plan.main(words)


@pytest.mark.parametrize(
    "complaint",
    [
        "Ran out of memory on HBM, the total memory required for HLO temporaries "
        "(69.50G) exceeds available HBM (15.75G). HLO module: x.",
        "Ran out of memory in memory space hbm. Used 69.50G of 15.75G hbm. Exceeded "
        "hbm capacity by 53.75G.",
    ],
)
def test_the_compilers_complaint_is_understood(complaint):
    assert compiler.wanted(complaint) == (69.5 * 2**30, 15.75 * 2**30)


def test_memory_that_the_next_state_takes_over_counts_once():
    x = jax.ShapeDtypeStruct((2**20,), "float32")  # 4 MiB
    for donated, mib in ((), 8), ((0,), 4):
        step = jax.jit(lambda x: x + 1, donate_argnums=donated)
        used = compiler.needed(step.lower(x).compile())
        assert used == pytest.approx(mib * 2**20, abs=2**16)


def test_what_was_compiled_is_found_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "versions", lambda: {"jax": "1", "libtpu": "2"})
    lower = lambda f: jax.jit(f).lower(jax.ShapeDtypeStruct((4,), "float32"))  # noqa: E731
    one = compiler.compile_once(lower(lambda x: x + 1), "v5e:2x2")
    assert "compiling" in capsys.readouterr().out
    assert one == compiler.compile_once(lower(lambda x: x + 1), "v5e:2x2")
    assert "compiling" not in capsys.readouterr().out
    for damaged in tmp_path.rglob("*.gz"):
        damaged.write_bytes(b"half a fi")
    assert one == compiler.compile_once(lower(lambda x: x + 1), "v5e:2x2")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib=65536")
    compiler.compile_once(lower(lambda x: x + 1), "v5e:2x2")
    assert "compiling" in capsys.readouterr().out
    for program, topology in ((lambda x: x + 2, "v5e:2x2"), (lambda x: x + 1, "v4:2")):
        compiler.compile_once(lower(program), topology)
        assert "compiling" in capsys.readouterr().out


def test_minutes_do_not_pass_in_silence(capsys):
    with compiler.signs_of_life("compiling", every=0.01):
        time.sleep(0.2)
    assert "compiling: 0 s so far" in capsys.readouterr().out


def need_the_compiler():
    try:
        importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip('needs the compiler for TPUs: pip install "jax[tpu]"')


def planned(tmp_path, *words):
    """A plan by the door."""
    need_the_compiler()
    common = [
        sys.executable,
        "-m",
        "simclr_jax",
        "plan",
        f"--json={tmp_path}/plan.json",
    ]
    done = subprocess.run([*common, *words], capture_output=True, text=True)
    return done, tmp_path / "plan.json"


def test_the_readme_has_a_plan_of_every_method_for_imagenet():
    planned = {name.partition("_")[0] for name, *_ in PLANS}
    assert planned >= set(METHODS) - {"tsimcne"}


@pytest.mark.long
@pytest.mark.parametrize("row", PLANS, ids=lambda row: "-".join(row[::2][:2]))
def test_a_plan_of_the_readme(row, tmp_path):
    name, batch, topology, gib, roof, est = row
    stem, _, arguments = name.partition(":")
    file = f"configs/{stem}.py:{arguments}"
    assert config.load(file).data.batch_size == int(batch)
    done, where = planned(tmp_path, f"--config={file}", f"--topology={topology}")
    assert done.returncode == 0, done.stderr
    found = json.loads(where.read_text())
    assert found["fits"]
    if f"jax {found['jax']}, libtpu {found['libtpu']}" not in README:
        pytest.skip("fits; the table is of other versions of the compiler")
    assert found["hbm_bytes_per_chip"] / 2**30 == pytest.approx(float(gib), rel=0.02)
    for key, told in (("roof_ms", roof), ("est_ms", est)):
        assert not told or found[key] == pytest.approx(float(told), rel=0.02)
    assert found["roof_ms"] < found["est_ms"]


@pytest.mark.long
def test_what_does_not_fit_and_what_is_no_topology(tmp_path):
    words = ["--config=configs/quickstart.py", "--images=300000", "--classes=10"]
    done, where = planned(
        tmp_path, *words, "--topology=v5e:1x1", "--config.data.batch_size=262144"
    )
    assert done.returncode == 0, done.stderr
    assert "does not fit" in done.stdout
    assert not json.loads(where.read_text())["fits"]
    done, _ = planned(tmp_path, *words, "--topology=v5e:3x3")
    assert done.returncode == 2
    assert "v5e:3x3" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.long
@pytest.mark.parametrize("gather", ["float32", "bfloat16"])
@pytest.mark.parametrize("n", [131_072, 1_048_576])
def test_nt_xent_of_a_million_images_takes_no_room_but_for_z(n, gather):
    """On 256 chips, of which each would have (2n)^2 / 64 bytes of the matrix."""
    need_the_compiler()
    mesh = sharding.make_mesh(compiler.describe("v5e:16x16"))
    rows = NamedSharding(mesh, P(None, sharding.DATA))
    z = jax.ShapeDtypeStruct((2, n, 128), "float32", sharding=rows)
    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(lambda z: nt_xent(z, 0.1, gather=gather)[0]))
        compiled = step.lower(z).compile()
    gathered = 2 * n * 128 * jnp.dtype(gather).itemsize
    assert compiled.memory_analysis().temp_size_in_bytes <= gathered + 2**20


def test_a_plan_may_measure_the_hosts_part(monkeypatch):
    """On pictures that are there: how many cores the chips keep busy."""
    c = config.load("configs/simclr_cifar10.py")
    words = ["--config=configs/simclr_cifar10.py", "--topology=v5e:2x2"]
    with pytest.raises(common.UsageError, match="cifar10_mini"):
        plan.main([*words, "--input=cifar10_mni"])
    monkeypatch.setattr(data_bench, "measure", partial(data_bench.measure, seconds=0.1))
    found = plan.input_of(c, open_source("cifar10_mini", split="train"))
    assert found["name"] == "cifar10_mini/train"
    assert found["images_per_core_second"] > 0
    said = {"images_per_second_bound": 1000.0} | {"input": found}
    found["images_per_core_second"] = 50.0
    assert "of 20 cores such as one here, which made 50 images/s" in plan.hosts(said)
