"""Real clients and the emulator, each client in a process of its own."""

import os
import subprocess
import sys

import pytest

from tests.buckets.emulator import Emulator

GOOGLE_CLOUD_STORAGE = """
import os
from google.cloud import storage

client = storage.Client()
bucket = client.bucket("bucket")
for name, size in (("a b/é", 1_000_000), ("large", 9_000_000)):
    data = os.urandom(size)
    bucket.blob(name).upload_from_string(data)
    assert bucket.blob(name).download_as_bytes() == data
    assert bucket.blob(name).download_as_bytes(start=5, end=9) == data[5:10]
bucket.blob("both").compose([bucket.blob("a b/é"), bucket.blob("large")])
bucket.blob("copy").rewrite(bucket.blob("both"))
assert bucket.get_blob("copy").size == 10_000_000
bucket.blob("copy").delete()
names = [blob.name for blob in client.list_blobs("bucket")]
assert names == ["a b/é", "both", "large"], names
"""
TENSORSTORE = """
import numpy as np
import tensorstore as ts

kvstore = {"driver": "gcs", "bucket": "bucket", "path": "array/"}
spec = {"driver": "zarr", "kvstore": kvstore}
array = np.random.default_rng(0).random((300, 1000))
options = {"create": True, "dtype": ts.float64, "shape": array.shape}
ts.open(spec, **options).result().write(array).result()
assert np.array_equal(ts.open(spec).result().read().result(), array)
store = ts.KvStore.open(kvstore).result()
assert store.list().result() == [b".zarray", b"0.0"]
assert store.read("none").result().state == "missing"
"""
TENSORFLOW = """
import os
from tensorflow.io.gfile import GFile, exists, listdir, makedirs, rename, rmtree, stat

folder = "gs://bucket/folder/of tensorflow"
makedirs(folder)
for size in (0, 5, 3_000_000):
    data, path = os.urandom(size), f"{folder}/a b+c=%{size}"
    with GFile(path, "wb") as file:
        file.write(data)
    assert stat(path).length == size
    with GFile(path, "rb") as file:
        assert file.read() == data
for mode in ("w", "a"):
    with GFile(f"{folder}/lines", mode) as file:
        file.write(f"{mode}\\n")
with GFile(f"{folder}/lines") as file:
    assert file.read() == "w\\na\\n"
rename(f"{folder}/lines", f"{folder}/renamed")
assert "renamed" in listdir(folder)
rmtree(folder)
assert not exists(f"{folder}/renamed")
"""


def run_client(emulator, command):
    environment = os.environ | emulator.environment
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(GOOGLE_CLOUD_STORAGE, id="google-cloud-storage"),
        pytest.param(TENSORSTORE, id="tensorstore"),
    ],
)
def test_real_clients_over_http(script):
    with Emulator(["bucket"]) as emulator:
        run_client(emulator, [sys.executable, "-c", script])
        assert emulator.objects("bucket")


@pytest.mark.buckets
def test_real_clients_over_tls():
    if reason := Emulator.why_not():
        pytest.skip(reason)
    with Emulator(["bucket"], tls=True) as emulator:
        emulator.check_tokens = True
        for script in (GOOGLE_CLOUD_STORAGE, TENSORSTORE, TENSORFLOW):
            run_client(emulator, emulator.command([sys.executable, "-c", script]))
        hosts = {request.path.partition("/")[0] for request in emulator.requests}
        assert hosts == {"www.googleapis.com", "storage.googleapis.com"}
        assert all(request.token for request in emulator.requests)


@pytest.mark.buckets
def test_a_command_keeps_its_process_id():
    if reason := Emulator.why_not():
        pytest.skip(reason)
    with Emulator(["bucket"], tls=True) as emulator:
        command = emulator.command(["bash", "-c", "echo $$; grep google /etc/hosts"])
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process_id, *hosts = process.communicate(timeout=60)[0].splitlines()
    assert int(process_id) == process.pid
    assert f"{emulator.url.removeprefix('https://')} storage.googleapis.com" in hosts
