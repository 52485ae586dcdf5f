"""Compiled programs are kept in a private folder or in a bucket, and read again."""

import os
import shutil
import stat
import time
import warnings

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from simclr_jax import compilation_cache
from simclr_jax.compilation_cache import enabled
from tests.buckets.controls import PERMISSIONS

SETTINGS = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_enable_xla_caches",
)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    """As in a process of a user who has set nothing."""
    values = {name: getattr(jax.config, name) for name in SETTINGS}
    for name in SETTINGS:
        monkeypatch.delenv(name.upper(), raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    jax_cache.reset_cache()
    monkeypatch.setattr(compilation_cache, "LEAST_SECONDS", 0.0)
    yield
    for name, value in values.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the user's entries will be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "simclr_jax" / "compiled"


def product(x):
    return x @ x.T + jax.numpy.sin(x).sum()


def forget():
    """As in a new process."""
    jax_cache.reset_cache()
    jax.clear_caches()


def compute(workdir=""):
    """The result of a program that is compiled as in a new process."""
    forget()
    x = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    with enabled(workdir):
        return np.asarray(jax.jit(product)(x))


def entries(folder):
    return {path.name: path.read_bytes() for path in folder.glob("jit_product-*-cache")}


def test_a_private_folder_keeps_programs_whose_results_are_equal(folder, capsys):
    jax.config.update("jax_enable_compilation_cache", False)
    expected = compute()
    assert not folder.exists()
    jax.config.update("jax_enable_compilation_cache", True)
    first = compute()
    assert len(entries(folder)) == 1
    hits = []
    jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
    second = compute()
    assert "/jax/compilation_cache/cache_hits" in hits
    for result in (first, second):
        np.testing.assert_array_equal(result, expected)
    for path in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert capsys.readouterr().err == ""


def test_a_folder_that_others_may_write_to_is_refused(folder, capsys):
    compute()
    for path in folder.glob("*"):
        path.unlink()
    for path, mode in ((folder, 0o722), (folder.parent, 0o770)):
        path.chmod(mode)
        compute()
        message = capsys.readouterr().err
        assert f"chmod go-w {path}\n" in message
        assert len(message.splitlines()) == 1
        path.chmod(0o700)
    assert not list(folder.glob("*"))


def test_a_folder_of_another_user_is_refused(folder, capsys, monkeypatch):
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    compute()
    assert not list(folder.glob("*"))
    message = capsys.readouterr().err
    assert f"{folder.parent} belongs to another user\n" in message
    assert len(message.splitlines()) == 1


def test_a_damaged_entry_is_written_anew(folder, capsys):
    expected = compute()
    ((name, data),) = entries(folder).items()
    for damaged in (b"", data[: len(data) // 2], data[:50] + b"?" + data[51:]):
        (folder / name).write_bytes(damaged)
        np.testing.assert_array_equal(compute(), expected)
        message = capsys.readouterr().err
        assert "cannot be read, and is compiled again" in message
        assert len(message.splitlines()) == 1
        np.testing.assert_array_equal(compute(), expected)
        assert capsys.readouterr().err == ""
    assert entries(folder).keys() == {name}


def test_a_folder_that_cannot_be_written_costs_one_line(folder, capsys):
    x = np.ones((3, 3), np.float32)
    forget()
    with enabled():
        jax.jit(product)(x)
        shutil.rmtree(folder)
        jax.jit(lambda x: x - 7)(x)
        jax.jit(lambda x: x - 8)(x)
    message = capsys.readouterr().err
    assert "compiled programs are not kept" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("root", ["relative", "/proc/version/cache"])
def test_without_a_folder_the_run_goes_on(root, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", root)
    compute()
    message = capsys.readouterr().err
    assert "compiled programs are not kept" in message
    assert len(message.splitlines()) == 1


def test_the_settings_of_jax_have_precedence(folder, tmp_path, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compute()
    assert entries(tmp_path / "mine")
    assert not folder.exists()
    jax.config.update("jax_compilation_cache_dir", None)
    least = "jax_persistent_cache_min_compile_time_secs"
    jax.config.update(least, 60.0)
    monkeypatch.setenv(least.upper(), "60")
    compute()
    assert folder.exists()
    assert entries(folder) == {}


def test_other_warnings_pass(folder):
    with enabled(), pytest.warns(UserWarning, match="of a user"):
        warnings.warn("of a user", stacklevel=1)


def test_entries_that_were_not_read_for_longest_are_removed(folder, monkeypatch):
    compute()
    kept = entries(folder).keys()
    for number in range(3):
        path = folder / f"jit_old{number}-cache"
        path.write_bytes(b"x" * 1000)
        os.utime(path, (number, number))
    size = sum(path.stat().st_size for path in folder.glob("*-cache"))
    monkeypatch.setattr(compilation_cache, "LIMIT", size - 1500)
    compute()
    names = {path.name for path in folder.glob("*-cache")}
    assert not {"jit_old0-cache", "jit_old1-cache"} & names
    assert {"jit_old2-cache", *kept} <= names


# In a bucket.


def objects(cloud):
    return {
        name: data
        for name, data in cloud.objects("bucket").items()
        if name.startswith("run.compiled/jit_product-")
    }


def test_another_machine_reads_the_programs_of_a_run_in_a_bucket(cloud, folder, capsys):
    first = compute("gs://bucket/run")
    kept = objects(cloud)
    assert len(kept) == 1
    count = len(cloud.objects("bucket"))
    cloud.clear_requests()
    np.testing.assert_array_equal(compute("gs://bucket/run"), first)
    assert len(cloud.requests) == 1 + count  # a list, and the entries
    assert objects(cloud) == kept
    assert not folder.exists()
    assert capsys.readouterr().err == ""


def test_a_damaged_entry_in_a_bucket_is_written_anew(cloud, capsys):
    first = compute("gs://bucket/run")
    ((name, data),) = objects(cloud).items()
    cloud.put("bucket", name, data[:-9] + bytes(9))
    np.testing.assert_array_equal(compute("gs://bucket/run"), first)
    assert "cannot be read, and is compiled again" in capsys.readouterr().err
    compute("gs://bucket/run")
    assert capsys.readouterr().err == ""


def test_a_bucket_that_denies_writing_costs_one_line(cloud, capsys):
    cloud.permissions = PERMISSIONS - {"storage.objects.create"}
    compute("gs://bucket/run")
    message = capsys.readouterr().err
    assert "compiled programs are not kept" in message
    assert "storage.objects.create" in message
    assert len(message.splitlines()) == 1


def test_new_programs_are_sent_while_the_body_runs(cloud, monkeypatch):
    """A preempted machine has no time left to send them."""
    monkeypatch.setattr(compilation_cache, "EVERY", 0.01)
    forget()
    with enabled("gs://bucket/run"):
        jax.jit(product)(np.ones((3, 3), np.float32))
        deadline = time.monotonic() + 30
        while not objects(cloud):
            assert time.monotonic() < deadline
            time.sleep(0.01)
