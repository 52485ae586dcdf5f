"""The interface of Cloud Storage to objects in memory.

It supports what TensorFlow, TensorStore and google-cloud-storage use: uploads (media,
multipart, resumable), reads of objects and ranges, metadata, lists in pages, rewrite,
copy, compose, delete, and preconditions on generations. Other requests are answered
501.
"""

import json
import re
import secrets
import threading
import urllib.parse

from tests.buckets.controls import Controls
from tests.buckets.messages import ApiError, HttpRequest, Response, parse_range
from tests.buckets.objects import SETTABLE, Objects

CHECKSUMS = {"crc32c": "crc32c", "md5Hash": "md5"}  # in metadata, in X-Goog-Hash
MAX_SOURCES = 32  # of a compose request
MALFORMED = (ValueError, LookupError, AttributeError, TypeError)  # from parsing


class Upload:
    """A resumable upload; the data is released when the object is made."""

    def __init__(self, bucket: str, name: str, metadata: dict, query: dict):
        self.bucket, self.name = bucket, name
        self.metadata, self.query = metadata, query
        self.data = b""
        self.result: dict | None = None


class Store:
    """Buckets behind the JSON interface and as much of the XML interface as is used.

    It carries out one request at a time.
    """

    def __init__(self, buckets, controls: Controls):
        self._objects = Objects(buckets, controls)
        self._uploads: dict[str, Upload] = {}
        self._lock = threading.Lock()

    # Without a request.

    def objects(self, bucket: str) -> dict[str, bytes]:
        """The data of all objects by name, sorted."""
        with self._lock:
            objects = sorted(self._objects.bucket(bucket).items())
            return {name: item.data for name, item in objects}

    def put(self, bucket: str, name: str, data: bytes) -> None:
        with self._lock:
            self._objects.put(bucket, name, data, {})

    def delete_bucket(self, bucket: str) -> None:
        with self._lock:
            self._objects.delete_bucket(bucket)

    # With requests.

    def target(self, request: HttpRequest) -> tuple[str, str]:
        """The bucket and the object of a request; of a list, the prefix."""
        query = request.query
        if upload := self._uploads.get(query.get("upload_id", "")):
            return upload.bucket, upload.name
        match request.service, request.resource:
            case "upload", [bucket, "o"]:
                try:
                    return bucket, request.upload_name
                except MALFORMED:
                    return bucket, ""
            case "", [bucket, "o"] if request.as_json:
                return bucket, query.get("prefix") or query.get("startOffset", "")
            case _, [bucket, "o", name, *_]:
                return bucket, name
            case "", [bucket, name]:  # XML
                return bucket, name
        return request.resource[0] if request.resource else "", ""

    def respond(self, request: HttpRequest) -> Response:
        """Carries out a request.

        Raises:
          ApiError: it is refused.
        """
        try:
            with self._lock:
                response = self._get(request) or self._change(request)
        except MALFORMED as error:
            raise ApiError(400, f"The request is malformed: {error!r}") from error
        if response is None:
            raise ApiError(501, f"Not emulated: {request.method} {request.uri}")
        return response

    def _get(self, request: HttpRequest) -> Response | None:
        objects, query = self._objects, request.query
        media = request.service == "download" or query.get("alt") == "media"
        match request.method, request.as_json, request.resource:
            case "GET", False, [bucket, name] if name:
                return self._read(request, bucket, name)
            case "GET", True, [bucket]:
                return Response(200, objects.describe_bucket(bucket))
            case "GET", True, [bucket, "o"]:
                return Response(200, objects.page(bucket, query))
            case "GET", True, [bucket, "o", name] if media:
                return self._read(request, bucket, name)
            case "GET", True, [bucket, "o", name]:
                return Response(200, objects.get(bucket, name, query, True).metadata)
        return None

    def _change(self, request: HttpRequest) -> Response | None:
        if not request.as_json:
            return None
        match request.method, request.service, request.resource:
            case "DELETE", "", [bucket, "o", name]:
                self._objects.delete(bucket, name, request.query)
                return Response(204)
            case "POST", "upload", [bucket, "o"]:
                return self._upload(request, bucket)
            case "PUT", "upload", [_, "o"]:
                return self._resume(request)
            case "POST", "", [bucket, "o", name, "compose"]:
                return Response(200, self._compose(request, bucket, name))
            case "POST", "", [_, "o", _, "copyTo", "b", bucket, "o", name]:
                return Response(200, self._copy(request, bucket, name))
            case "POST", "", [_, "o", _, "rewriteTo", "b", bucket, "o", name]:
                metadata = self._copy(request, bucket, name)
                size = metadata["size"]
                body = {"kind": "storage#rewriteResponse", "done": True}
                body |= {"objectSize": size, "totalBytesRewritten": size}
                return Response(200, body | {"resource": metadata})
        return None

    def _read(self, request: HttpRequest, bucket: str, name: str) -> Response:
        data, metadata = self._objects.get(bucket, name, request.query, True)
        hashes = [f"{h}={metadata[k]}" for k, h in CHECKSUMS.items() if k in metadata]
        headers = (
            ("Content-Type", metadata["contentType"]),
            ("ETag", metadata["etag"]),
            ("X-Goog-Generation", metadata["generation"]),
            ("X-Goog-Metageneration", metadata["metageneration"]),
            ("X-Goog-Hash", ",".join(hashes)),
            ("X-Goog-Stored-Content-Length", metadata["size"]),
        )
        span = parse_range(request.header("Range"), len(data))
        if not span:
            return Response(200, data, headers)
        begin, end = span
        content_range = f"bytes {begin}-{end - 1}/{len(data)}"
        headers = (*headers, ("Content-Range", content_range))
        return Response(206, data[begin:end], headers)

    def _copy(self, request: HttpRequest, bucket: str, name: str) -> dict:
        from_bucket, _, from_name, *_ = request.resource
        query = {
            "generation": request.query.get("sourceGeneration"),
            "ifGenerationMatch": request.query.get("ifSourceGenerationMatch"),
        }
        query = {key: value for key, value in query.items() if value is not None}
        data, source = self._objects.get(from_bucket, from_name, query)
        changes = json.loads(request.body or b"{}")
        metadata = {key: (source | changes).get(key) for key in SETTABLE}
        return self._objects.write(bucket, name, data, metadata, request.query)

    def _compose(self, request: HttpRequest, bucket: str, name: str) -> dict:
        body = json.loads(request.body)
        if len(body["sourceObjects"]) > MAX_SOURCES:
            raise ApiError(400, f"More than {MAX_SOURCES} source components.")
        pieces = []
        for source in body["sourceObjects"]:
            conditions = source | (source.get("objectPreconditions") or {})
            query = {k: str(v) for k, v in conditions.items() if v is not None}
            pieces.append(self._objects.get(bucket, source["name"], query).data)
        metadata, query = body.get("destination") or {}, request.query
        result = self._objects.write(bucket, name, b"".join(pieces), metadata, query)
        result.pop("md5Hash")  # Cloud Storage has none for such an object
        result["componentCount"] = len(pieces)
        return result

    def _upload(self, request: HttpRequest, bucket: str) -> Response:
        self._objects.bucket(bucket)
        (metadata, data), name = request.upload, request.upload_name
        query = request.query
        if query.get("uploadType") != "resumable":
            written = self._objects.write(bucket, name, data, metadata, query)
            return Response(200, written)
        self._objects.check_write(bucket, name, query)
        number = secrets.token_hex(16)
        self._uploads[number] = Upload(bucket, name, metadata, query)
        base = f"{request.environ['wsgi.url_scheme']}://{request.header('Host')}"
        query = urllib.parse.urlencode({"uploadType": "resumable", "upload_id": number})
        location = f"{base}/upload/storage/v1/b/{bucket}/o?{query}"
        return Response(200, b"", (("Location", location),))

    def _resume(self, request: HttpRequest) -> Response:
        """Takes a piece of a resumable upload, or says how much has arrived."""
        upload = self._uploads.get(request.query["upload_id"])
        if not upload:
            raise ApiError(404, "No such upload.")
        if upload.result is None and not self._receive(upload, request):
            arrived = len(upload.data)
            headers = (("Range", f"bytes=0-{arrived - 1}"),) if arrived else ()
            return Response(308, b"", headers)
        if upload.result is None:
            upload.result = self._finish(upload, request.header("X-Goog-Hash"))
        return Response(200, upload.result)

    def _receive(self, upload: Upload, request: HttpRequest) -> bool:
        """Adds the piece that a request carries; whether the upload is complete."""
        whole = f"bytes 0-0/{len(request.body)}"
        content_range = request.header("Content-Range") or whole
        pattern = r"bytes (?:\*|(\d+)-\d+)/(\*|\d+)"
        match = re.fullmatch(pattern, content_range)
        if not match:
            raise ValueError(f"Content-Range is malformed: {content_range}")
        first, total = match.groups()
        if first:  # else it only asks how much has arrived
            if int(first) > len(upload.data):
                raise ApiError(400, f"{first} is beyond what has arrived.")
            upload.data = upload.data[: int(first)] + request.body
        return total == str(len(upload.data))

    def _finish(self, upload: Upload, hashes: str) -> dict:
        metadata = dict(upload.metadata)
        if match := re.search(r"crc32c=([^,]+)", hashes):
            metadata["crc32c"] = match[1]
        result = self._objects.write(
            upload.bucket, upload.name, upload.data, metadata, upload.query
        )
        upload.data = b""
        return result
