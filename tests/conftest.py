"""Eight simulated devices, no accelerator, one compilation cache for all runs.

Programs are compiled with little or no optimisation: sooner, to run slower. What jax
for Python 3.11 makes without any is too slow for that to pay.
"""

import ctypes
import gc
import os
import pathlib
import sys
import tempfile
import warnings

DEVICES = 8
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"--xla_backend_optimization_level={int(sys.version_info < (3, 12))} "
    f"--xla_force_host_platform_device_count={DEVICES}"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["NO_GCE_CHECK"] = "true"  # no credentials are looked for on the network

import jax
import pytest

from simclr_jax import sharding
from simclr_jax.cli import runtime
from simclr_jax.storage import client, retry
from tests.buckets.emulator import Emulator

cache = pathlib.Path(tempfile.gettempdir()) / f"simclr_jax_tests_{jax.__version__}"
for key, value in (
    ("JAX_COMPILATION_CACHE_DIR", str(cache)),
    ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0"),
    ("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1"),
):
    os.environ[key] = value  # for the processes that tests start
    jax.config.update(key.lower(), int(value) if value.lstrip("-").isdigit() else value)


def pytest_addoption(parser):
    parser.addoption(
        "--method",
        default="",
        help="test the contract with this method: module:factory:key=value,...",
    )


@pytest.fixture(scope="module", autouse=True)
def _free_programs():
    """Frees the compiled programs of a module: all together are gigabytes."""
    yield
    jax.clear_caches()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # glibc would keep the memory


@pytest.fixture
def in_process(monkeypatch):
    """Lets a command run inside the test: on one device, joining no cluster."""
    mesh = sharding.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", lambda: mesh)
    monkeypatch.setattr(runtime, "join_cluster", lambda: None)


@pytest.fixture(scope="session")
def _cloud_server():
    with Emulator(["bucket", "other"]) as emulator:
        yield emulator
        client.client().close()


@pytest.fixture
def cloud(_cloud_server, monkeypatch):
    """An emulated Cloud Storage with buckets "bucket" and "other", for this process."""
    _cloud_server.reset()
    for name, value in _cloud_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(retry, "LONGEST_DELAY", 0.1)
    client.get_bucket.cache_clear()
    return _cloud_server


@pytest.fixture
def broken_connections():
    """For tests that break connections, whose sockets requests leaves unclosed."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
