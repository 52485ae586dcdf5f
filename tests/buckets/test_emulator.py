"""The emulator's controls for tests, and its log."""

import http.client
import json
import threading
import time

import pytest

from tests.buckets import controls
from tests.buckets.client import (
    Client,
    json_path,
    multipart,
    quote,
    upload_path,
    xml_path,
)
from tests.buckets.controls import PERMISSIONS
from tests.buckets.emulator import Emulator, Fault

DATA = b"0123456789" * 1000
LIST = "/storage/v1/b/bucket/o"
COPY = f"{json_path('x')}/rewriteTo/b/bucket/o"
COMPOSITION = json.dumps({"sourceObjects": [{"name": "x"}]})


@pytest.fixture
def emulator(served):
    served.reset()
    served.put("bucket", "x", DATA)
    return served


@pytest.fixture
def client(emulator):
    return Client(emulator)


def test_it_stops_at_once_with_pending_requests():
    """Idle, stalled and unfinished connections end, and so do all threads."""
    before = set(threading.enumerate())
    with Emulator(["bucket"]) as emulator:
        emulator.put("bucket", "x", DATA)
        emulator.faults = [Fault("GET", stall=60)]
        address = emulator.url.removeprefix("http://")
        idle, stalled, unfinished = (
            http.client.HTTPConnection(address) for _ in range(3)
        )
        idle.connect()
        stalled.request("GET", xml_path("x"))
        unfinished.putrequest("POST", upload_path("y"))
        unfinished.putheader("Content-Length", "100")
        unfinished.endheaders()
        wait_until(lambda: len(emulator.requests) == 2)
        stop = time.monotonic()
    assert time.monotonic() - stop < 2
    wait_until(lambda: set(threading.enumerate()) <= before)
    for connection in (idle, stalled, unfinished):
        connection.close()


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Faults.


def statuses(client, count, path=None):
    return [client.get(path or xml_path("x")).status for _ in range(count)]


def test_a_status_instead_of_a_response(client, emulator):
    emulator.faults = [Fault("^POST .*/o\\?.*name=y", status=503)]
    reply = client.post(upload_path("y"), DATA)
    assert reply.status == reply.json["error"]["code"] == 503
    assert client.post(upload_path("z"), DATA).status == 200
    assert emulator.objects("bucket").keys() == {"x", "z"}
    assert [request.status for request in emulator.requests] == [503, 200]


def test_after_and_count(client, emulator):
    fault = Fault("^GET ", status=503, after=1, count=2)
    emulator.faults.append(fault)
    assert statuses(client, 5) == [200, 503, 503, 200, 200]
    assert fault.hits == 2
    emulator.faults = [fault]  # resets its counts
    assert statuses(client, 3) == [200, 503, 503]
    emulator.faults = []
    assert statuses(client, 1) == [200]


def test_a_fault_lasts_for_seconds(client, emulator, monkeypatch):
    fault, hour = Fault(status=503, seconds=3600), 0
    monkeypatch.setattr(controls, "monotonic", lambda: time.monotonic() + 3601 * hour)
    hour = 1
    emulator.faults.append(fault)  # its clock starts here
    assert statuses(client, 1) == [503]
    hour = 2
    assert statuses(client, 1) == [200]


def test_the_agent_is_matched(client, emulator):
    emulator.faults = [Fault("TensorFlow$", status=503)]
    assert client.get(xml_path("x"), User_Agent="TensorFlow").status == 503
    assert client.get(xml_path("x"), User_Agent="tensorstore").status == 200
    assert [request.agent for request in emulator.requests] == [
        "TensorFlow",
        "tensorstore",
    ]


def test_a_stall(client, emulator):
    emulator.faults = [Fault(stall=0.3, count=1)]
    began = time.monotonic()
    assert client.get(xml_path("x")).data == DATA
    assert time.monotonic() - began >= 0.3
    assert emulator.requests[0].seconds >= 0.3


@pytest.mark.parametrize("size", [0, 100])
def test_a_truncated_response(client, emulator, size):
    emulator.faults = [Fault(truncate=size)]
    with pytest.raises(http.client.IncompleteRead) as caught:
        client.get(xml_path("x"))
    assert caught.value.partial == DATA[:size]
    assert emulator.requests[0].bytes_out == size
    with pytest.raises(http.client.IncompleteRead):
        client.post(upload_path("y"))
    assert "y" in emulator.objects("bucket")  # it was carried out


def test_a_reset(client, emulator):
    emulator.faults = [Fault(reset=True)]
    with pytest.raises(ConnectionError):
        client.post(upload_path("y"), DATA)
    assert emulator.requests[0].status is None
    assert emulator.requests[0].bytes_in == len(DATA)
    assert "y" not in emulator.objects("bucket")


def test_a_reset_of_the_emulator(client, emulator):
    emulator.faults.append(Fault(status=503))
    emulator.page, emulator.check_tokens = 1, True
    assert statuses(client, 1) == [503]
    emulator.reset()
    assert emulator.requests == []
    assert statuses(client, 1) == [404]


def test_latency(client, emulator):
    emulator.latency = 0.2
    began = time.monotonic()
    client.get(xml_path("x"))
    assert time.monotonic() - began >= 0.2


# Tokens.


def test_tokens(client, emulator):
    token = emulator.new_token()
    path = json_path("x")
    assert client.get(path).status == 200
    emulator.check_tokens = True
    reply = client.get(path)
    assert reply.status == 401
    assert "Bearer" in reply.headers["WWW-Authenticate"]
    assert client.get(path, Authorization=f"Bearer {token}").status == 200
    emulator.revoke_tokens()
    assert client.get(path, Authorization=f"Bearer {token}").status == 401
    fresh = emulator.new_token()
    assert client.get(path, Authorization=f"Bearer {fresh}").status == 200
    tokens = [request.token for request in emulator.requests]
    assert tokens == ["", "", token, token, fresh]


# Permissions.

REQUESTS = {  # and the permissions that each needs
    ("GET", "/storage/v1/b/bucket"): {"buckets.get"},
    ("GET", LIST): {"objects.list"},
    ("GET", json_path("x")): {"objects.get"},
    ("GET", f"{json_path('x')}?alt=media"): {"objects.get"},
    ("GET", xml_path("x")): {"objects.get"},
    ("POST", upload_path("new")): {"objects.create"},
    ("POST", upload_path("x")): {"objects.create", "objects.delete"},
    ("POST", upload_path("new", "resumable")): {"objects.create"},
    ("POST", upload_path("x", "resumable")): {"objects.create", "objects.delete"},
    ("POST", f"{COPY}/new"): {"objects.get", "objects.create"},
    ("POST", f"{COPY}/x"): {"objects.get", "objects.create", "objects.delete"},
    ("POST", f"{json_path('new')}/compose"): {"objects.get", "objects.create"},
    ("POST", f"{json_path('x')}/compose"): {
        *("objects.get", "objects.create", "objects.delete"),
    },
    ("DELETE", json_path("x")): {"objects.delete"},
}


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_permissions(client, emulator, method, path):
    body = COMPOSITION if path.endswith("compose") else None
    needed = {f"storage.{name}" for name in REQUESTS[method, path]}
    for permission in sorted(PERMISSIONS):
        emulator.reset()
        emulator.put("bucket", "x", DATA)
        emulator.permissions = PERMISSIONS - {permission}
        reply = client(method, path, body)
        if permission in needed:
            assert reply.status == 403
            assert f"does not have {permission} access to the" in str(reply.data)
            assert set(emulator.objects("bucket")) == {"x"}
        else:
            assert reply.status in (200, 204)


def test_the_message_without_a_permission(client, emulator):
    emulator.permissions.discard("storage.objects.create")
    error = client.post(upload_path("new")).json["error"]
    assert error["errors"][0]["reason"] == "forbidden"
    assert error["message"].endswith(
        "does not have storage.objects.create access to the Google Cloud Storage "
        "object. Permission 'storage.objects.create' denied on resource (or it may "
        "not exist)."
    )
    emulator.permissions.discard("storage.objects.list")
    assert "Storage bucket. Permission" in client.get(LIST).json["error"]["message"]


# The rate of writes.


def test_seconds_between_writes(client, emulator):
    emulator.seconds_between_writes = 60
    one, two = ({"name": name} for name in ("one", "two"))
    path = upload_path(kind="multipart")
    replies = [client.post(path, **multipart(name, b"")) for name in (one, two, one)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert replies[2].json["error"]["errors"][0]["reason"] == "rateLimitExceeded"
    for path in (
        upload_path("one"),
        upload_path("one", "resumable"),
        f"{json_path('x')}/rewriteTo/b/bucket/o/one",
    ):
        assert client.post(path).status == 429
    assert client.post(upload_path("one", bucket="other")).status == 200
    emulator.seconds_between_writes = 0
    assert client.post(upload_path("one")).status == 200


# The log.


def test_the_log(client, emulator):
    before = time.time()
    client.get(f"{json_path('x')}?alt=media", Range="bytes=0-9", User_Agent="me")
    (request,) = emulator.requests
    assert before <= request.time <= time.time()
    assert 0 <= request.seconds < 10
    assert request.method == "GET"
    assert request.path == "127.0.0.1/storage/v1/b/bucket/o/x?alt=media"
    assert (request.bucket, request.object) == ("bucket", "x")
    assert (request.range, request.agent) == ("bytes=0-9", "me")
    assert (request.status, request.bytes_in, request.bytes_out) == (206, 0, 10)
    emulator.clear_requests()
    assert emulator.requests == []


def test_the_log_has_the_names_of_objects(client, emulator):
    name, resumable = "a b/é", upload_path(kind="resumable")
    metadata = {"name": name}
    client.post(upload_path(kind="multipart"), **multipart(metadata, DATA))
    location = client.post(resumable, json.dumps(metadata)).headers["Location"]
    client.put(location.removeprefix(emulator.url), DATA)
    client.get(xml_path(name))
    client.get(f"{LIST}?prefix={quote(name)}")
    client.get(f"{LIST}?startOffset={quote(name)}")
    client.post(f"{json_path(name)}/compose", COMPOSITION)
    client.delete(json_path(name))
    objects = [(request.bucket, request.object) for request in emulator.requests]
    assert objects == [("bucket", name)] * 8
    assert {request.status for request in emulator.requests} == {200, 204}


def test_the_log_of_faults_has_the_names_too(client, emulator):
    emulator.faults = [Fault(status=503)]
    body = multipart({"name": "y"}, b"")
    client.post(upload_path(kind="multipart"), **body)
    assert emulator.requests[0].object == "y"
