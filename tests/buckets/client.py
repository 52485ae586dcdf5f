"""A client of the emulator that shows requests and responses as they are."""

import http.client
import json
import urllib.parse
from typing import NamedTuple


class Reply(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    data: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.data)


class Client:
    """Sends requests over plain HTTP, each by a connection of its own."""

    def __init__(self, emulator):
        self._address = urllib.parse.urlsplit(emulator.url).netloc

    def __call__(self, method: str, path: str, body=None, **headers: str) -> Reply:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(self._address, timeout=20)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self("GET", path, **headers)

    def post(self, path: str, body: bytes | str = b"", **headers: str) -> Reply:
        return self("POST", path, body, **headers)

    def put(self, path: str, body: bytes = b"", **headers: str) -> Reply:
        return self("PUT", path, body, **headers)

    def delete(self, path: str) -> Reply:
        return self("DELETE", path)


def quote(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def json_path(name: str, bucket: str = "bucket") -> str:
    """The path of an object in the JSON interface."""
    return f"/storage/v1/b/{bucket}/o/{quote(name)}"


def xml_path(name: str, bucket: str = "bucket") -> str:
    """The path of an object in the XML interface."""
    return f"/{bucket}/{urllib.parse.quote(name)}"


def upload_path(name: str = "", kind: str = "media", bucket: str = "bucket") -> str:
    """The path for an upload; without a name if the body has it."""
    path = f"/upload/storage/v1/b/{bucket}/o?uploadType={kind}"
    return f"{path}&name={quote(name)}" if name else path


def multipart(metadata: dict, data: bytes, boundary: str = "==7==") -> dict:
    """The body and the header of an upload with metadata."""
    mark = f"--{boundary}\r\n".encode()
    head = b"content-type: application/json\r\n\r\n" + json.dumps(metadata).encode()
    part = b"content-type: image/x\r\n\r\n" + data
    body = mark + head + b"\r\n" + mark + part + f"\r\n--{boundary}--".encode()
    content_type = f'multipart/related; boundary="{boundary}"'
    return {"body": body, "Content_Type": content_type}
