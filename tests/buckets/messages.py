"""Requests and responses of Cloud Storage's JSON and XML interfaces."""

import functools
import http.client
import json
import re
import urllib.parse
from typing import NamedTuple
from xml.sax.saxutils import escape

NO_BUCKET = "The specified bucket does not exist."
REASONS = {  # in JSON, by status
    400: "invalid",
    401: "authError",
    403: "forbidden",
    404: "notFound",
    412: "conditionNotMet",
    416: "requestedRangeNotSatisfiable",
    429: "rateLimitExceeded",
    500: "internalError",
    501: "notImplemented",
}
XML_ERRORS = {  # code and message, by status
    400: ("InvalidArgument", "Invalid argument."),
    401: ("AuthenticationRequired", "Authentication required."),
    403: ("AccessDenied", "Access denied."),
    404: ("NoSuchKey", "The specified key does not exist."),
    412: ("PreconditionFailed", "A pre-condition you specified did not hold."),
    416: ("InvalidRange", "The requested range cannot be satisfied."),
    429: ("SlowDown", "Please reduce your request rate."),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    501: ("NotImplemented", "The request is not implemented."),
}
UNAVAILABLE = ("ServiceUnavailable", "Service unavailable. Please try again later.")


class ApiError(Exception):
    """A response other than success."""

    def __init__(self, status: int, message: str, *headers: tuple[str, str]):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


class Response(NamedTuple):
    """A response; a dictionary is sent as JSON."""

    status: int
    body: bytes | dict = b""
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, fields: str = "") -> tuple[str, list[tuple[str, str]], bytes]:
        """Status line, headers and body, of JSON only the fields asked for."""
        body, headers = self.body, list(self.headers)
        if isinstance(body, dict):
            # The form "items(name,size)" is not supported: all fields are sent.
            simple = fields and "(" not in fields and self.status == 200
            body = json.dumps(select_fields(body, fields) if simple else body).encode()
            headers.append(("Content-Type", "application/json; charset=UTF-8"))
        if self.status not in (204, 304):
            headers.append(("Content-Length", str(len(body))))
        phrase = http.client.responses.get(self.status, "Unknown")
        return f"{self.status} {phrase}", headers, body


def error_response(error: ApiError, as_json: bool) -> Response:
    """What Cloud Storage sends for an error in one of its interfaces."""
    status, message = error.status, error.message
    if status == 304:
        return Response(status, b"", error.headers)
    if as_json:
        reason = REASONS.get(status, "backendError")
        errors = [{"message": message, "domain": "global", "reason": reason}]
        body = {"error": {"code": status, "message": message, "errors": errors}}
        return Response(status, body, error.headers)
    code, text = XML_ERRORS.get(status, UNAVAILABLE)
    if message == NO_BUCKET:
        code, text = "NoSuchBucket", NO_BUCKET
    details = f"<Details>{escape(message)}</Details>"
    body = f"<Error><Code>{code}</Code><Message>{text}</Message>{details}</Error>"
    headers = (("Content-Type", "application/xml; charset=UTF-8"), *error.headers)
    return Response(status, f"<?xml version='1.0'?>{body}".encode(), headers)


def select_fields(body: dict | list, fields: str) -> dict | list:
    """The fields of a JSON body that "a,b/c" names."""
    if isinstance(body, list):
        return [select_fields(item, fields) for item in body]
    selected = {}
    for name, _, inner in (field.partition("/") for field in fields.split(",")):
        if name in body:
            selected[name] = select_fields(body[name], inner) if inner else body[name]
    return selected


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """The first byte of a range and its end; None if there is no valid header."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if not match or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if first:
        begin, end = int(first), min(size, int(last or size) + 1)
    else:
        begin, end = max(0, size - int(last)), size
    if begin >= end:
        headers = ("Content-Range", f"bytes */{size}")
        raise ApiError(416, "The requested range cannot be satisfied.", headers)
    return begin, end


class HttpRequest:
    """A request, parsed; its body is empty until it is read.

    Attributes:
      service: "upload", "download" or "", the first part of a path of the JSON
        interface.
      as_json: whether it is a request to the JSON interface.
      resource: the parts of the path from the bucket's name on.
    """

    def __init__(self, environ: dict):
        self.environ = environ
        self.method = environ["REQUEST_METHOD"]
        self.uri = environ["REQUEST_URI"]
        path, _, query = self.uri.partition("?")
        # Slashes in a name are quoted in the JSON interface: split, then unquote.
        parts = [urllib.parse.unquote(part) for part in path[1:].split("/")]
        self.service = parts.pop(0) if parts[0] in ("upload", "download") else ""
        self.as_json = parts[:3] == ["storage", "v1", "b"]
        self.resource = parts[3:] if self.as_json else [parts[0], "/".join(parts[1:])]
        self.query = dict(urllib.parse.parse_qsl(query))
        self.body = b""

    def header(self, name: str) -> str:
        key = name.upper().replace("-", "_")
        return self.environ.get(key) or self.environ.get(f"HTTP_{key}", "")

    def read_body(self) -> None:
        """Reads the body; what arrived is kept if the client closes the connection."""
        pieces = iter(lambda: self.environ["wsgi.input"].read(2**20), b"")
        buffer = bytearray()
        try:
            for piece in pieces:
                buffer += piece
        finally:
            self.body = bytes(buffer)
        if len(self.body) != int(self.header("Content-Length") or len(self.body)):
            raise ApiError(400, "The body ended early.")

    @functools.cached_property
    def upload(self) -> tuple[dict, bytes]:
        """The metadata and the data that the request for an upload carries."""
        match self.query.get("uploadType"):
            case "multipart":
                return self._parse_multipart()
            case "resumable":
                content_type = self.header("X-Upload-Content-Type")
                metadata = json.loads(self.body or b"{}")
                return {"contentType": content_type} | metadata, b""
            case _:
                return {"contentType": self.header("Content-Type")}, self.body

    def _parse_multipart(self) -> tuple[dict, bytes]:
        match = re.search(r'boundary="?([^";]+)', self.header("Content-Type"))
        if not match:
            raise ValueError("A multipart upload has no boundary.")
        mark = b"\r\n--" + match[1].encode()
        # The data may contain what looks like a boundary: the last one is its end.
        middle, end = self.body.index(mark, 1), self.body.rindex(mark + b"--")
        metadata = json.loads(self.body[:middle].partition(b"\r\n\r\n")[2])
        head, _, data = self.body[middle + len(mark) : end].partition(b"\r\n\r\n")
        match = re.search(rb"(?i)content-type: *([^\r\n]+)", head)
        content_type = match[1].decode() if match else ""
        return {"contentType": content_type} | metadata, data

    @property
    def upload_name(self) -> str:
        """The name of the object that an upload makes."""
        return self.query.get("name") or self.upload[0]["name"]
