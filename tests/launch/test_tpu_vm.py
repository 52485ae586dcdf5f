"""launch/tpu_vm.sh with gcloud replaced, and by its parser; the startup script."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

from tests.test_docs import commands

SCRIPT = "launch/tpu_vm.sh"
ARGUMENTS = (
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
    """Writes a program of this name to the PATH of `run`."""
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (folder / name).chmod(0o755)


def run(folder, *arguments, **environment):
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", *arguments],
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def create(folder, *arguments, **environment):
    """Runs the script; (the arguments of gcloud, the startup script of a host)."""
    body = f"""
printf '%s\\n' "$@" >{folder}/argv
last=${{@: -1}}
case $last in *startup-script=*) cp "${{last##*=}}" {folder}/host ;; esac
"""
    command(folder, "gcloud", body)
    done = run(folder, SCRIPT, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return (folder / "argv").read_text().splitlines(), folder / "host"


def test_arguments_for_one_slice(tmp_path):
    argv, host = create(tmp_path, "run", "zone", "v5litepod-64", "1", *ARGUMENTS)
    assert argv[:5] == ["compute", "tpus", "queued-resources", "create", "run"]
    *flags, script = argv[5:]
    assert set(flags) == {
        *("--zone=zone", "--accelerator-type=v5litepod-64", "--node-id=run"),
        "--runtime-version=v2-alpha-tpuv5-lite",
    }
    temporary = script.removeprefix("--metadata-from-file=startup-script=")
    assert not os.path.exists(temporary)
    assert host.read_text().startswith("#!/usr/bin/env bash\n")


def test_arguments_for_several_slices_and_flags(tmp_path):
    arguments = ("run", "zone", "v4-32", "3", *ARGUMENTS)
    argv, _ = create(tmp_path, *arguments, FLAGS="--spot --network=net")
    assert {"--node-count=3", "--node-prefix=run", "--spot", "--network=net"} <= set(
        argv
    )
    assert not any(argument.startswith("--node-id") for argument in argv)


@pytest.mark.parametrize(
    ("accelerator", "runtime"),  # of Google's page on TPU software versions
    [
        *(("v2-8", "tpu-ubuntu2204-base"), ("v3-32", "tpu-ubuntu2204-base")),
        *(("v4-8", "tpu-ubuntu2204-base"), ("v5litepod-4", "v2-alpha-tpuv5-lite")),
        *(("v5p-8", "v2-alpha-tpuv5"), ("v6e-256", "v2-alpha-tpuv6e")),
    ],
)
def test_types_have_their_runtime(tmp_path, accelerator, runtime):
    argv, _ = create(tmp_path, "run", "zone", accelerator, "1", *ARGUMENTS)
    assert f"--runtime-version={runtime}" in argv


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage: "),
        (("run", "zone", "v4-8", "IMAGE", "--config", "x"), "usage: "),
        (("run", "zone", "v4-8", "0", *ARGUMENTS), "usage: "),
        (("run", "zone", "tpu7x-8", "1", *ARGUMENTS), "no runtime known for tpu7x-8"),
    ],
)
def test_wrong_arguments_are_refused_without_calling_gcloud(
    tmp_path, arguments, message
):
    command(tmp_path, "gcloud", "echo called")
    done = run(tmp_path, SCRIPT, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("codes", "end"),
    [((0,), 0), ((75, 134, 75, 0), 0), ((75, 1), 1), ((2,), 2), ((137,), 137)],
)
def test_hosts_repeat_the_command_after_codes_75_and_134(tmp_path, codes, end):
    _, host = create(tmp_path, "run", "zone", "v4-8", "1", *ARGUMENTS)
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
    image, subcommand, *arguments = ran[-len(ARGUMENTS) - 1 :]
    assert (image, subcommand, *arguments) == (ARGUMENTS[0], "pretrain", *ARGUMENTS[1:])
    argv = (tmp_path / "argv").read_text().split()
    assert argv == ["auth", "configure-docker", "IMAGE", "--quiet"]


@pytest.mark.skipif(not shutil.which("gcloud"), reason="needs gcloud")
@pytest.mark.parametrize(
    "line", [x for x in PAGES if re.match(r"gcloud|(FLAGS=\S+ )?launch/tpu", x)]
)
def test_gcloud_parses_the_commands(tmp_path, line):
    """It parses the arguments before it reports the missing account."""
    clean = {x: y for x, y in os.environ.items() if not x.startswith("CLOUDSDK")}
    no_account = {
        "CLOUDSDK_CONFIG": str(tmp_path),
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_CORE_PROJECT": "none",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    }

    def error(line):
        command = ["bash", "-c", line]
        done = subprocess.run(
            command, env=clean | no_account, capture_output=True, text=True
        )
        assert done.returncode
        return done.stderr

    assert "not currently have an active account" in error(line)
    if line == PAGES[0]:
        wrong = f"FLAGS=--sport {shlex.join(shlex.split(line))}"
        assert "unrecognized arguments: --sport" in error(wrong)
