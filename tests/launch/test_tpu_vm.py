"""launch/tpu_vm.sh with gcloud replaced, by gcloud itself; what hosts begin."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

from tests.test_docs import commands

SCRIPT = "launch/tpu_vm.sh"
DOOR = (
    "IMAGE/x:1",
    "--config",
    "configs/a.py:epochs=8,batch=10",
    "--workdir=gs://b/a b",
)
PAGES = [
    command
    for page in ("tpu_vm", "gke")
    for command in commands(pathlib.Path(f"launch/{page}.md"))
]


def command(folder, name, body):
    """Puts a program of this name on the PATH of `run`."""
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (folder / name).chmod(0o755)


def run(folder, *words, **environment):
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", *words],
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def asked(folder, *words, **environment):
    """What gcloud is told, and what the hosts shall begin."""
    body = f"""
printf '%s\\n' "$@" >{folder}/argv
last=${{@: -1}}
case $last in *startup-script=*) cp "${{last##*=}}" {folder}/host ;; esac
"""
    command(folder, "gcloud", body)
    done = run(folder, SCRIPT, *words, **environment)
    assert done.returncode == 0, done.stderr
    return (folder / "argv").read_text().splitlines(), folder / "host"


def test_one_slice(tmp_path):
    argv, host = asked(tmp_path, "run", "zone", "v5litepod-64", "1", *DOOR)
    assert argv[:5] == ["compute", "tpus", "queued-resources", "create", "run"]
    *flags, script = argv[5:]
    assert set(flags) == {
        *("--zone=zone", "--accelerator-type=v5litepod-64", "--node-id=run"),
        "--runtime-version=v2-alpha-tpuv5-lite",
    }
    left = script.removeprefix("--metadata-from-file=startup-script=")
    assert not os.path.exists(left)
    assert host.read_text().startswith("#!/usr/bin/env bash\n")


def test_several_slices_and_more_words(tmp_path):
    words = ("run", "zone", "v4-32", "3", *DOOR)
    argv, _ = asked(tmp_path, *words, FLAGS="--spot --network=net")
    assert {"--node-count=3", "--node-prefix=run", "--spot", "--network=net"} <= set(
        argv
    )
    assert not any(word.startswith("--node-id") for word in argv)


@pytest.mark.parametrize(
    ("kind", "runtime"),  # of Google's page on TPU software versions
    [
        *(("v2-8", "tpu-ubuntu2204-base"), ("v3-32", "tpu-ubuntu2204-base")),
        *(("v4-8", "tpu-ubuntu2204-base"), ("v5litepod-4", "v2-alpha-tpuv5-lite")),
        *(("v5p-8", "v2-alpha-tpuv5"), ("v6e-256", "v2-alpha-tpuv6e")),
    ],
)
def test_each_type_has_its_runtime(tmp_path, kind, runtime):
    argv, _ = asked(tmp_path, "run", "zone", kind, "1", *DOOR)
    assert f"--runtime-version={runtime}" in argv


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "usage: "),
        (("run", "zone", "v4-8", "IMAGE", "--config", "x"), "usage: "),
        (("run", "zone", "v4-8", "0", *DOOR), "usage: "),
        (("run", "zone", "tpu7x-8", "1", *DOOR), "no runtime known for tpu7x-8"),
    ],
)
def test_a_mistake_is_one_line_and_asks_for_nothing(tmp_path, words, said):
    command(tmp_path, "gcloud", "echo called")
    done = run(tmp_path, SCRIPT, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("codes", "end"),
    [((0,), 0), ((75, 134, 75, 0), 0), ((75, 1), 1), ((2,), 2), ((137,), 137)],
)
def test_a_host_repeats_what_may_be_repeated(tmp_path, codes, end):
    _, host = asked(tmp_path, "run", "zone", "v4-8", "1", *DOOR)
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    body = f"""
[[ $1 == run ]] || exit 0
printf '%s\\n' "$@" >>{tmp_path}/ran
code=$(head -n 1 {tmp_path}/codes); sed -i 1d {tmp_path}/codes; exit "$code"
"""
    command(tmp_path, "docker", body)
    assert run(tmp_path, str(host)).returncode == end
    ran = (tmp_path / "ran").read_text().splitlines()
    assert ran.count("pretrain") == len(codes)
    assert (tmp_path / "codes").read_text() == ""
    image, door, *words = ran[-len(DOOR) - 1 :]
    assert (image, door, *words) == (DOOR[0], "pretrain", *DOOR[1:])
    argv = (tmp_path / "argv").read_text().split()
    assert argv == ["auth", "configure-docker", "IMAGE", "--quiet"]


@pytest.mark.skipif(not shutil.which("gcloud"), reason="needs gcloud")
@pytest.mark.parametrize(
    "line", [x for x in PAGES if re.match(r"gcloud|(FLAGS=\S+ )?launch/tpu", x)]
)
def test_gcloud_understands(tmp_path, line):
    """It reads the words, and only then misses an account: none can be used here."""
    clean = {x: y for x, y in os.environ.items() if not x.startswith("CLOUDSDK")}
    nobody = {
        "CLOUDSDK_CONFIG": str(tmp_path),
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_CORE_PROJECT": "none",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    }

    def said(line):
        words = ["bash", "-c", line]
        done = subprocess.run(words, env=clean | nobody, capture_output=True, text=True)
        assert done.returncode
        return done.stderr

    assert "not currently have an active account" in said(line)
    if line == PAGES[0]:
        wrong = f"FLAGS=--sport {shlex.join(shlex.split(line))}"
        assert "unrecognized arguments: --sport" in said(wrong)
