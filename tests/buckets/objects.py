"""Buckets and objects in memory, with Cloud Storage's rules for changing them."""

import base64
import datetime
import hashlib
import itertools
import time
from typing import NamedTuple

import google_crc32c

from tests.buckets.controls import PAGE, Controls
from tests.buckets.messages import NO_BUCKET, ApiError

ACCOUNT = "trainer@emulated.iam.gserviceaccount.com"
SETTABLE = ("contentType", "metadata", "cacheControl", "contentEncoding")
FORBIDDEN = (
    "{account} does not have {permission} access to the Google Cloud Storage {kind}. "
    "Permission '{permission}' denied on resource (or it may not exist)."
)
RATE_EXCEEDED = (
    "The object {bucket}/{name} exceeded the rate limit for object mutation operations "
    "(create, update, and delete). Please reduce your request rate."
)
PRECONDITION = "At least one of the pre-conditions you specified did not hold."


class Object(NamedTuple):
    data: bytes
    metadata: dict


def timestamp() -> str:
    moment = datetime.datetime.now(datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def checksums(data: bytes) -> dict[str, str]:
    """The checksums of data, as they are in an object's metadata."""
    crc32c = google_crc32c.value(data).to_bytes(4, "big")
    digests = {"crc32c": crc32c, "md5Hash": hashlib.md5(data).digest()}
    return {key: base64.b64encode(value).decode() for key, value in digests.items()}


def check_generation(existing: Object | None, query: dict, reading=False) -> None:
    """Checks preconditions; the generation of a missing object is "0"."""
    generation = existing.metadata["generation"] if existing else "0"
    if query.get("ifGenerationMatch", generation) != generation:
        raise ApiError(412, PRECONDITION)
    if query.get("ifGenerationNotMatch") == generation:
        raise ApiError(304 if reading else 412, PRECONDITION)


class Objects:
    """The objects of all buckets; the caller serialises the calls.

    Most methods take the query of a request and check its preconditions.
    """

    def __init__(self, buckets, controls: Controls):
        self._buckets: dict[str, dict[str, Object]] = {name: {} for name in buckets}
        self._controls = controls
        self._written: dict[tuple[str, str], float] = {}  # when, by bucket and name
        self._generation = 0
        self._created = timestamp()

    def bucket(self, bucket: str) -> dict[str, Object]:
        if bucket not in self._buckets:
            raise ApiError(404, NO_BUCKET)
        return self._buckets[bucket]

    def delete_bucket(self, bucket: str) -> None:
        del self._buckets[bucket]

    def put(self, bucket: str, name: str, data: bytes, metadata: dict) -> dict:
        """Makes an object without any checks; returns all of its metadata."""
        self._generation = max(self._generation + 1, time.time_ns() // 1000)
        number, moment = str(self._generation), timestamp()
        complete = {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{number}",
            "bucket": bucket,
            "name": name,
            "generation": number,
            "metageneration": "1",
            "etag": f"C{number}=",
            "size": str(len(data)),
            "storageClass": "STANDARD",
            "contentType": "application/octet-stream",
            "timeCreated": moment,
            "updated": moment,
            **checksums(data),
            **{key: metadata[key] for key in SETTABLE if metadata.get(key)},
        }
        self.bucket(bucket)[name] = Object(data, complete)
        return complete

    def require(self, permission: str) -> None:
        if permission in self._controls.permissions:
            return
        of_bucket = permission in ("storage.buckets.get", "storage.objects.list")
        kind = "bucket" if of_bucket else "object"
        message = FORBIDDEN.format(account=ACCOUNT, permission=permission, kind=kind)
        raise ApiError(403, message)

    def describe_bucket(self, bucket: str) -> dict:
        self.bucket(bucket)
        self.require("storage.buckets.get")
        return {
            "kind": "storage#bucket",
            "id": bucket,
            "name": bucket,
            "etag": "CAE=",
            "location": "US-CENTRAL1",
            "locationType": "region",
            "storageClass": "STANDARD",
            "projectNumber": "1",
            "metageneration": "1",
            "timeCreated": self._created,
            "updated": self._created,
        }

    def _existing(self, bucket: str, name: str, query: dict, reading=False) -> Object:
        existing = self.bucket(bucket).get(name)
        generation = existing and existing.metadata["generation"]
        if not existing or query.get("generation", generation) != generation:
            raise ApiError(404, f"No such object: {bucket}/{name}")
        check_generation(existing, query, reading)
        return existing

    def get(self, bucket: str, name: str, query: dict, reading=False) -> Object:
        """The object; `reading`: for a response of its own, which may be 304."""
        self.bucket(bucket)
        self.require("storage.objects.get")
        return self._existing(bucket, name, query, reading)

    def delete(self, bucket: str, name: str, query: dict) -> None:
        self.bucket(bucket)
        self.require("storage.objects.delete")
        self._existing(bucket, name, query)
        del self.bucket(bucket)[name]

    def check_write(self, bucket: str, name: str, query: dict) -> None:
        """Whether the object may be written now."""
        existing = self.bucket(bucket).get(name)
        self.require("storage.objects.create")
        check_generation(existing, query)
        if existing:
            self.require("storage.objects.delete")
        written = self._written.get((bucket, name), float("-inf"))
        if time.monotonic() - written < self._controls.seconds_between_writes:
            raise ApiError(429, RATE_EXCEEDED.format(bucket=bucket, name=name))

    def write(
        self, bucket: str, name: str, data: bytes, metadata: dict, query: dict
    ) -> dict:
        """Makes an object if that is allowed; returns all of its metadata."""
        self.check_write(bucket, name, query)
        for key, value in checksums(data).items():
            if metadata.get(key, value) != value:
                message = f"Provided {key} doesn't match calculated {key} {value}"
                raise ApiError(400, message)
        self._written[bucket, name] = time.monotonic()
        return self.put(bucket, name, data, metadata)

    def page(self, bucket: str, query: dict) -> dict:
        """A page of a list."""
        self.bucket(bucket)
        self.require("storage.objects.list")
        most = min(int(query.get("maxResults", PAGE)), self._controls.page)
        after = base64.b64decode(query.get("pageToken", "")).decode()
        entries = self._entries(bucket, query)
        rest = ((key, item) for key, item in entries.items() if key > after)
        page = dict(itertools.islice(rest, most))
        body = {
            "kind": "storage#objects",
            "items": [item.metadata for item in page.values() if item],
            "prefixes": [key for key, item in page.items() if not item],
        }
        if next(rest, None):
            body["nextPageToken"] = base64.b64encode(max(page).encode()).decode()
        return {key: value for key, value in body.items() if value}

    def _entries(self, bucket: str, query: dict) -> dict[str, Object | None]:
        """What is listed, in order: objects, and prefixes without an object."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start, end = query.get("startOffset", ""), query.get("endOffset")
        entries: dict[str, Object | None] = {}
        for name, item in sorted(self.bucket(bucket).items()):
            if not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                entries[name] = item
            else:
                entries.setdefault(name[: cut + len(delimiter)], None)
        return entries
