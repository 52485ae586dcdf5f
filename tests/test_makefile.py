"""`make` on machines made of stubs: which interpreter, when it builds, with what."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# A stub is the interpreter that runs the tests, with another version and home.
PYTHON = """#!/bin/sh
case $1 in
-Ic | -c)
  exec {real} -Ic "import sys; sys.version_info = {info}; \\
sys.version = '{version} (main, Jan  1 2026, 00:00:00) [GCC 14]'; \\
sys._base_executable = '{home}'; $2" ;;
esac
echo "{name} $*" >> {log}
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp {home} "$3/bin/python"; fi
if [ "$1 $2" = "-m pip" ]; then echo "line of pip"; echo "reason of pip" >&2; fi
if [ "$1 $2" = "-m pip" ] && [ -e {log}.offline ]; then exit 1; fi
"""
UV = """#!/bin/sh
[ "$1" = --version ] && exit
echo "uv $*" >> {log}
while [ $# -gt 1 ]; do [ "$1" = --python ] && python=$2; shift; done
case $python in .venv/*) ;; *) mkdir -p "$1/bin" && cp "$python" "$1/bin/python" ;; esac
"""
BROKEN = "#!/bin/sh\necho noise; echo shim: not installed >&2; exit 127\n"


class Machine:
    """A folder with a Makefile, its inputs, and a PATH where every tool is a stub."""

    def __init__(self, folder):
        self.folder, self.bin = folder, folder / "bin with space"
        self.log = folder / "log"
        self.bin.mkdir()
        shutil.copy(ROOT / "Makefile", folder)
        (folder / "requirements.lock").write_text("jax==1\n")
        (folder / "pyproject.toml").write_text("[project]\n")
        for name in ("python3", "python3.11", "python3.12", "python3.13", "uv"):
            self.put(name, BROKEN)

    def put(self, name, text):
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def python(self, name, version):
        home = str(self.bin / name)
        text = PYTHON.format(
            real=sys.executable,
            info=tuple(map(int, version.split("."))),
            version=version,
            home=home,
            name=name,
            log=self.log,
        )
        self.put(name, text.replace(f"cp {home}", f"cp '{home}'"))

    def make(self, *arguments):
        """Returns the finished process and the lines that the stubs logged."""
        self.log.write_text("")
        unwanted = ("MAKE", "MFLAGS", "PYTHON")  # of the `make test` around us
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(unwanted)
        }
        environment["PATH"] = f"{self.bin}:{environment['PATH']}"
        done = subprocess.run(
            ["make", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done, self.log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def built(log):
    """The interpreters that an environment was built with, in order."""
    return [line.split()[0] for line in log if "-m venv" in line]


@pytest.mark.parametrize("version", ["2.7.18", "3.10.13", "3.14.0"])
def test_another_version_gets_one_line(machine, version):
    machine.python("mine", version)
    done, log = machine.make("test", "PYTHON=mine")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "3.11, 3.12 or 3.13" in line
    assert f"mine is {version}" in line
    assert done.stdout == ""
    assert log == []


def test_no_python_at_all_gets_one_line(machine):
    done, _ = machine.make("quickstart")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "make quickstart PYTHON=" in done.stderr


@pytest.mark.parametrize("version", ["3.11.0", "3.12.9", "3.13.7"])
def test_supported_versions_build_and_run(machine, version):
    machine.python("python3", version)
    done, log = machine.make("test")
    assert done.returncode == 0
    venv, lock, project, tests = log
    assert venv == "python3 -m venv .venv"
    assert "--require-hashes -r requirements.lock" in lock
    for option in ("--no-deps", "--no-index", "--no-build-isolation", "--editable ."):
        assert option in project
    assert tests == "python3 -m pytest -n 2 --dist worksteal"


def test_an_unsupported_default_gives_way_to_the_first_that_works(machine):
    machine.python("python3", "3.14.0")
    machine.python("python3.13", "3.13.1")  # python3.12 is a shim that only makes noise
    done, log = machine.make("test")
    assert done.returncode == 0
    assert built(log) == ["python3.13"]


def test_a_fresh_environment_is_left_alone(machine):
    machine.python("python3", "3.12.1")
    machine.make("env")
    assert machine.make("env")[1] == []


def test_a_changed_lock_rebuilds(machine):
    machine.python("python3", "3.12.1")
    machine.make("env")
    (machine.folder / "requirements.lock").write_text("jax==2\n")
    assert built(machine.make("env")[1]) == ["python3"]
    assert machine.make("env")[1] == []


def test_another_interpreter_rebuilds_and_stays(machine):
    machine.python("python3", "3.12.1")
    machine.python("other", "3.13.0")
    machine.make("env")
    assert built(machine.make("env", "PYTHON=other")[1]) == ["other"]
    assert machine.make("env")[1] == []
    assert built(machine.make("env", "PYTHON=python3")[1]) == ["python3"]


def test_an_environment_whose_interpreter_is_gone_rebuilds(machine):
    machine.python("python3", "3.12.1")
    machine.make("env")
    (machine.folder / ".venv/bin/python").unlink()
    assert built(machine.make("env")[1]) == ["python3"]


def test_a_changed_project_is_installed_again(machine):
    machine.python("python3", "3.12.1")
    machine.make("env")
    (machine.folder / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (line,) = machine.make("env")[1]
    assert line.endswith("--editable .")
    assert machine.make("env")[1] == []


def test_a_folder_that_was_moved_is_installed_again(machine, tmp_path_factory):
    machine.python("python3", "3.12.1")
    machine.make("env")
    moved = tmp_path_factory.mktemp("moved") / "to a path"
    machine.folder = shutil.copytree(machine.folder, moved)
    assert [line.split()[-1] for line in machine.make("env")[1]] == ["."]


def test_lines_of_pip_are_in_the_log_that_is_named(machine):
    machine.python("python3", "3.12.1")
    done, _ = machine.make("env")
    assert "line of pip" not in done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    assert ".venv.log" in line
    assert "line of pip" in (machine.folder / ".venv.log").read_text()


def test_an_installation_that_fails_shows_the_end_of_the_log(machine):
    machine.python("python3", "3.12.1")
    (machine.folder / "log.offline").touch()
    done, _ = machine.make("test")
    assert done.returncode == 2
    assert ".venv.log" in done.stderr
    assert "reason of pip" in done.stderr


def test_an_interrupted_build_is_not_taken_for_a_whole_one(machine):
    machine.python("python3", "3.12.1")
    offline = machine.folder / "log.offline"
    offline.touch()
    assert machine.make("test")[0].returncode == 2
    offline.unlink()
    done, log = machine.make("test")
    assert done.returncode == 0
    assert built(log) == ["python3"]


def test_uv_where_present(machine):
    machine.python("python3", "3.12.1")
    machine.put("uv", UV.format(log=machine.log))
    done, log = machine.make("test")
    assert done.returncode == 0
    assert [line.split()[:2] for line in log[:2]] == [["uv", "venv"], ["uv", "pip"]]
    assert str(machine.bin / "python3") in log[0]  # a path, never a name to look up
    assert "--require-hashes" in log[1]
    assert log[2].endswith("--editable .")
    assert log[3:] == ["python3 -m pytest -n 2 --dist worksteal"]


def test_pip_where_uv_fails(machine):
    machine.python("python3", "3.12.1")
    machine.put("uv", '#!/bin/sh\n[ "$1" = --version ]\n')
    done, log = machine.make("env")
    assert done.returncode == 0
    assert built(log) == ["python3"]


def test_lock_without_uv_says_so(machine):
    done, _ = machine.make("lock")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "needs uv" in done.stderr


def test_help_is_the_default_and_lists_every_target(machine):
    text = (ROOT / "Makefile").read_text()
    (targets,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    done, log = machine.make()
    assert done.returncode == 0
    assert log == []
    shown = re.findall(r"^make (\S+)", done.stdout, re.MULTILINE)
    assert shown == [t for t in targets.split() if not t.startswith("env")]


def pins(path):
    found = re.findall(
        r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", path.read_text(), re.MULTILINE
    )
    return {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in found}


def test_the_lock_holds_every_pin():
    assert pins(ROOT / "requirements.txt") <= pins(ROOT / "requirements.lock")
    assert len(pins(ROOT / "requirements.txt")) > 10
