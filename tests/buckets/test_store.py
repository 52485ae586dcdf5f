"""The emulator's responses, as documented by Cloud Storage and used by clients."""

import base64
import hashlib
import json
import urllib.parse

import pytest

from tests.buckets.client import (
    Client,
    json_path,
    multipart,
    quote,
    upload_path,
    xml_path,
)

DATA = bytes(range(256)) * 400
ODD = "a b+c=%5/é"  # a name that needs quoting
LIST = "/storage/v1/b/bucket/o?"


@pytest.fixture
def emulator(served):
    served.reset()
    return served


@pytest.fixture
def client(emulator):
    return Client(emulator)


def md5(data):
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def generation(client, name):
    return client.get(json_path(name)).json["generation"]


# Uploads.


def test_media_upload(client, emulator):
    metadata = client.post(upload_path(ODD), DATA, Content_Type="image/x").json
    assert (metadata["name"], metadata["bucket"]) == (ODD, "bucket")
    assert (metadata["size"], metadata["md5Hash"]) == (str(len(DATA)), md5(DATA))
    assert metadata["contentType"] == "image/x"
    assert emulator.objects("bucket") == {ODD: DATA}
    replaced = client.post(upload_path(ODD), b"").json
    assert int(replaced["generation"]) > int(metadata["generation"])
    assert replaced["size"] == "0"
    assert emulator.objects("bucket") == {ODD: b""}


def test_multipart_upload(client, emulator):
    data = DATA + b"\r\n--==\r\n\r\n--==7==\r\n--==6==\n\r"  # like the body's end
    metadata = {"name": ODD, "metadata": {"key": "value"}, "md5Hash": md5(data)}
    reply = client.post(upload_path(kind="multipart"), **multipart(metadata, data))
    assert reply.json["contentType"] == "image/x"
    assert reply.json["metadata"] == {"key": "value"}
    assert emulator.objects("bucket") == {ODD: data}


@pytest.mark.parametrize("checksum", ["md5Hash", "crc32c"])
def test_a_wrong_checksum_is_refused(client, emulator, checksum):
    body = multipart({"name": "x", checksum: "AAAAAA=="}, DATA)
    reply = client.post(upload_path(kind="multipart"), **body)
    assert reply.status == 400
    assert checksum in reply.json["error"]["message"]
    assert not emulator.objects("bucket")


def start_upload(client, name, query="", **headers):
    """Starts a resumable upload; returns the path that continues it."""
    headers |= {"Host": "storage.googleapis.com"}
    reply = client.post(upload_path(name, "resumable") + query, **headers)
    location = urllib.parse.urlsplit(reply.headers["Location"])
    assert location.netloc == "storage.googleapis.com"
    assert location.path.startswith("/upload/")
    return f"{location.path}?{location.query}"


def test_resumable_upload(client, emulator):
    path = start_upload(client, ODD, X_Upload_Content_Type="image/x")
    reply = client.put(path, Content_Range=f"bytes */{len(DATA)}")
    assert reply.status == 308
    assert reply.headers["Range"] is None
    assert client.put(path, DATA).json["contentType"] == "image/x"
    assert emulator.objects("bucket") == {ODD: DATA}


def test_resumable_upload_of_nothing(client, emulator):
    path = start_upload(client, "empty")
    assert client.put(path, Content_Range="bytes */0").json["size"] == "0"
    assert emulator.objects("bucket") == {"empty": b""}


def test_resumable_upload_in_pieces(client, emulator):
    path, size, half = start_upload(client, ODD), len(DATA), len(DATA) // 2
    first = {"body": DATA[:half], "Content_Range": f"bytes 0-{half - 1}/*"}
    question = {"Content_Range": f"bytes */{size}"}
    for request in (first, question, first):  # a piece may be sent repeatedly
        reply = client.put(path, **request)
        assert reply.status == 308
        assert reply.headers["Range"] == f"bytes=0-{half - 1}"
    gap = f"bytes {half + 1}-{size - 1}/{size}"
    assert client.put(path, DATA[half + 1 :], Content_Range=gap).status == 400
    assert not emulator.objects("bucket")
    last = {"body": DATA[half:], "Content_Range": f"bytes {half}-{size - 1}/{size}"}
    for request in (last, question):
        assert client.put(path, **request).json["size"] == str(size)
    assert emulator.objects("bucket") == {ODD: DATA}


def test_unknown_resumable_upload(client):
    path = f"{upload_path(kind='resumable')}&upload_id=none"
    assert client.put(path, b"x").status == 404


# Reading.


@pytest.mark.parametrize(
    "path",
    [
        xml_path(ODD),
        f"/bucket/{quote(ODD)}",
        f"{json_path(ODD)}?alt=media",
        f"/download{json_path(ODD)}?alt=media",
    ],
)
def test_read(client, emulator, path):
    emulator.put("bucket", ODD, DATA)
    reply = client.get(path)
    assert (reply.status, reply.data) == (200, DATA)
    assert reply.headers["X-Goog-Generation"] == generation(client, ODD)
    assert f"md5={md5(DATA)}" in reply.headers["X-Goog-Hash"]


@pytest.mark.parametrize("path", [xml_path("x"), f"{json_path('x')}?alt=media"])
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=5-14", slice(5, 15)),
        ("bytes=10-", slice(10, None)),
        ("bytes=10-99999999", slice(10, None)),
        ("bytes=-7", slice(-7, None)),
    ],
)
def test_ranges(client, emulator, path, header, expected):
    emulator.put("bucket", "x", DATA)
    reply = client.get(path, Range=header)
    assert (reply.status, reply.data) == (206, DATA[expected])
    begin, end, _ = expected.indices(len(DATA))
    assert reply.headers["Content-Range"] == f"bytes {begin}-{end - 1}/{len(DATA)}"


def test_ranges_beyond_the_end(client, emulator):
    emulator.put("bucket", "x", b"123")
    emulator.put("bucket", "empty", b"")
    assert client.get(xml_path("x"), Range="bytes=3-9").status == 416
    assert client.get(xml_path("empty"), Range="bytes=0-9").status == 416
    assert client.get(xml_path("empty")).data == b""


def test_metadata(client, emulator):
    emulator.put("bucket", "folder/", b"")
    fields = "size,generation,updated"
    selected = client.get(f"{json_path('folder/')}?fields={fields}").json
    assert selected.keys() == set(fields.split(","))
    assert selected["size"] == "0"
    whole = client.get(json_path("folder/")).json
    assert selected.items() <= whole.items()
    assert client.get("/storage/v1/b/bucket").json["name"] == "bucket"


# Lists.

NAMES = ["a b+c=%5", "empty", "folder/", "folder/inside", "folder/nest/deep", "é"]


@pytest.mark.parametrize(
    ("query", "items", "prefixes"),
    [
        ("", NAMES, []),
        ("prefix=folder%2F", NAMES[2:5], []),
        ("delimiter=%2F", ["a b+c=%5", "empty", "é"], ["folder/"]),
        ("prefix=folder%2F&delimiter=%2F", NAMES[2:4], ["folder/nest/"]),
        ("startOffset=empty&endOffset=folder%2Fnest", NAMES[1:4], []),
        ("prefix=zzz", [], []),
    ],
)
@pytest.mark.parametrize("page", [1, 2, 1000])
def test_lists(client, emulator, query, items, prefixes, page):
    for name in NAMES:
        emulator.put("bucket", name, b"123")
    emulator.page = page
    listed, token = {"items": [], "prefixes": []}, ""
    while True:
        body = client.get(f"{LIST}{query}&pageToken={quote(token)}").json
        names = [item["name"] for item in body.get("items", [])]
        assert len(names) + len(body.get("prefixes", [])) <= page
        listed["items"] += names
        listed["prefixes"] += body.get("prefixes", [])
        token = body.get("nextPageToken", "")
        if not token:
            break
    assert listed == {"items": items, "prefixes": prefixes}


def test_the_client_may_ask_for_smaller_pages_and_some_fields(client, emulator):
    for name in ("a", "b"):
        emulator.put("bucket", name, b"")
    query = "maxResults=1&fields=items%2Fname%2CnextPageToken"
    body = client.get(f"{LIST}{query}").json
    assert body["items"] == [{"name": "a"}]
    assert body.keys() == {"items", "nextPageToken"}


# Preconditions on generations.


def test_preconditions_of_reads(client, emulator):
    emulator.put("bucket", "x", DATA)
    current, media = generation(client, "x"), f"{json_path('x')}?alt=media"
    expected = {
        f"ifGenerationNotMatch={current}": 304,
        "ifGenerationNotMatch=5": 200,
        f"ifGenerationMatch={current}": 200,
        "ifGenerationMatch=5": 412,
        f"generation={current}": 200,
        "generation=5": 404,
    }
    statuses = {query: client.get(f"{media}&{query}").status for query in expected}
    assert statuses == expected
    missing = f"{json_path('none')}?alt=media&ifGenerationNotMatch=5"
    assert client.get(missing).status == 404


@pytest.mark.parametrize("kind", ["media", "resumable"])
def test_preconditions_of_writes(client, emulator, kind):
    def upload(condition):
        path = f"{upload_path('x', kind)}&ifGenerationMatch={condition}"
        return client.post(path).status

    assert [upload("0"), upload("77")] == [200, 412]
    emulator.put("bucket", "x", b"old")
    assert [upload("0"), upload("77")] == [412, 412]
    assert upload(generation(client, "x")) == 200


def test_a_resumable_upload_checks_its_precondition_at_its_end(client, emulator):
    path = start_upload(client, "x", "&ifGenerationMatch=0")
    emulator.put("bucket", "x", b"first")
    assert client.put(path, b"second").status == 412
    assert emulator.objects("bucket") == {"x": b"first"}


# Changes on the server.


def compose(client, names, query="", **metadata):
    body = {"sourceObjects": [{"name": x} for x in names], "destination": metadata}
    return client.post(f"{json_path('all')}/compose{query}", json.dumps(body))


def test_compose(client, emulator):
    emulator.put("bucket", "x", DATA)
    emulator.put("bucket", "y", b"123")
    metadata = compose(client, ["x", "y"], contentType="image/x").json
    assert metadata["contentType"] == "image/x"
    assert "md5Hash" not in metadata
    assert emulator.objects("bucket")["all"] == DATA + b"123"
    assert compose(client, ["all", "y"]).json["size"] == str(len(DATA) + 6)
    assert compose(client, ["x"], "?ifGenerationMatch=0").status == 412
    assert compose(client, ["x", "none"]).status == 404
    assert compose(client, ["y"] * 33).status == 400


def test_compose_checks_the_generations_of_sources(client, emulator):
    emulator.put("bucket", "x", DATA)
    for source, status in (
        ({"generation": None}, 200),
        ({"generation": generation(client, "x")}, 200),
        ({"generation": 5}, 404),
        ({"objectPreconditions": {"ifGenerationMatch": 5}}, 412),
    ):
        body = json.dumps({"sourceObjects": [{"name": "x", **source}]})
        assert client.post(f"{json_path('y')}/compose", body).status == status


def test_rewrite_and_copy(client, emulator):
    emulator.put("bucket", ODD, DATA)
    to = f"b/other/o/{quote('copy/x')}"
    body = client.post(f"{json_path(ODD)}/rewriteTo/{to}").json
    assert body["done"] is True
    assert body["objectSize"] == body["totalBytesRewritten"] == str(len(DATA))
    assert body["resource"]["name"] == "copy/x"
    copied = client.post(f"{json_path(ODD)}/copyTo/b/other/o/y").json
    assert copied["size"] == str(len(DATA))
    assert emulator.objects("other") == {"copy/x": DATA, "y": DATA}
    for path, query, status in (
        (f"{json_path('none')}/rewriteTo/{to}", "", 404),
        (f"{json_path(ODD)}/rewriteTo/b/none/o/x", "", 404),
        (f"{json_path(ODD)}/rewriteTo/{to}", "?ifGenerationMatch=0", 412),
        (f"{json_path(ODD)}/rewriteTo/{to}", "?ifSourceGenerationMatch=5", 412),
    ):
        assert client.post(path + query).status == status


def test_delete(client, emulator):
    emulator.put("bucket", ODD, DATA)
    assert client.delete(f"{json_path(ODD)}?ifGenerationMatch=5").status == 412
    reply = client.delete(json_path(ODD))
    assert (reply.status, reply.data) == (204, b"")
    assert client.delete(json_path(ODD)).status == 404
    assert not emulator.objects("bucket")


# Errors.


def test_errors_in_json(client, emulator):
    error = client.get(json_path("none")).json["error"]
    assert error["code"] == 404
    assert error["message"] == "No such object: bucket/none"
    assert error["errors"][0]["reason"] == "notFound"
    emulator.put("bucket", "x", b"")
    error = client.post(f"{upload_path('x')}&ifGenerationMatch=0").json["error"]
    assert (error["code"], error["errors"][0]["reason"]) == (412, "conditionNotMet")


def test_errors_in_xml(client):
    for path, code in (
        (xml_path("none"), b"NoSuchKey"),
        (xml_path("x", bucket="none"), b"NoSuchBucket"),
    ):
        reply = client.get(path)
        assert (reply.status, reply.headers.get_content_subtype()) == (404, "xml")
        assert b"<Code>" + code + b"</Code>" in reply.data


def test_a_missing_bucket(client, emulator):
    emulator.put("bucket", "x", b"")
    emulator.delete_bucket("bucket")
    for reply in (
        client.get("/storage/v1/b/bucket"),
        client.get(LIST),
        client.get(json_path("x")),
        client.get(f"{json_path('x')}?alt=media"),
        client.delete(json_path("x")),
        client.post(upload_path("x"), b"x"),
        client.post(upload_path("x", "resumable")),
        compose(client, ["x"]),
    ):
        assert reply.status == 404
        expected = "The specified bucket does not exist."
        assert reply.json["error"]["message"] == expected


def test_requests_that_are_not_supported(client):
    assert client.get("/storage/v1/b").status == 501
    assert client("PATCH", json_path("x"), b"{}").status == 501
    assert client.put(xml_path("x"), b"x").status == 501
    assert client.post(f"{json_path('x')}/compose", b"{").status == 400
    assert client.post(upload_path(kind="multipart"), b"x").status == 400
