"""Cloud Storage emulated in threads of this process, with faults and a log."""

import contextlib
import dataclasses
import errno
import http.client
import os
import pathlib
import tempfile
import threading
import time
import urllib.parse

from tests.buckets.controls import TEST_TOKEN, Controls, Fault
from tests.buckets.google_names import (
    free_address,
    in_namespace,
    make_certificates,
    metadata_server,
    variables,
    why_not,
    write_hosts,
)
from tests.buckets.messages import ApiError, HttpRequest, Response, error_response
from tests.buckets.server import Server, TLSAdapter
from tests.buckets.store import Store

__all__ = ["Emulator", "Fault", "Request"]

THREADS = 48  # a stalled or slow request occupies one
METADATA_THREADS = 8
UNAUTHORISED = ("WWW-Authenticate", 'Bearer error="invalid_token"')


@dataclasses.dataclass
class Request:
    """A request in the log, complete before the end of its response is sent.

    Attributes:
      time: when it arrived, as time.time() counts.
      path: host/path?query, unquoted.
      object: the name, if it concerns one; of a list, the prefix.
      status: None before a response, or without one.
      bytes_in: size of the request's body.
      bytes_out: bytes of the response's body that were sent, or are about to be.
      seconds: from its arrival until the last part of its response was sent.
    """

    time: float
    method: str
    path: str
    range: str
    agent: str
    token: str
    bucket: str = ""
    object: str = ""
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0


def log_entry(request: HttpRequest) -> Request:
    host = request.header("Host").partition(":")[0]
    return Request(
        time=time.time(),
        method=request.method,
        path=host + urllib.parse.unquote(request.uri),
        range=request.header("Range"),
        agent=request.header("User-Agent"),
        token=request.header("Authorization").removeprefix("Bearer "),
    )


class Emulator(Controls):
    """A Cloud Storage with these buckets, served while the context lasts.

    It is reached over plain HTTP by google-cloud-storage and TensorStore where the
    variables of `environment` are set; or over TLS, under Google's names and with a
    metadata server for credentials, by all clients in a process that is started by
    `command` with these variables.

    Attributes:
      requests: the log of requests, in the order of their arrival.
      url: where it serves, from the context's beginning on.
    """

    why_not = staticmethod(why_not)

    def __init__(self, buckets, *, tls: bool = False, address: str = ""):
        """Prepares an emulator.

        Args:
          buckets: their names.
          tls: serve under Google's names; `why_not` tells whether that is possible.
          address: with TLS, the loopback address; any free one if not given.
        """
        super().__init__()
        self.requests: list[Request] = []
        self.url = ""
        self._tls, self._address = tls, address
        self._buckets = list(buckets)
        self._store = Store(self._buckets, self)
        self._stopping = threading.Event()
        self._environment: dict[str, str] = {}
        self._hosts = pathlib.Path()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._start_tls(stack) if self._tls else self._start_plain(stack)
            # Before the servers stop, so that no request waits on.
            stack.callback(self._stopping.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _serve(self, stack, address, port, application, threads, adapter=None) -> int:
        """Starts a server, which the stack will stop; returns its port."""
        server = Server(address, port, application, threads)
        server.ssl_adapter = adapter
        server.run()
        stack.callback(server.close)
        return server.port

    def _start_plain(self, stack) -> None:
        port = self._serve(stack, "127.0.0.1", 0, self._application, THREADS)
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {
            "STORAGE_EMULATOR_HOST": self.url,  # google-cloud-storage
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            # What follows keeps them from looking for real credentials.
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": TEST_TOKEN,  # TensorStore
            "NO_GCE_CHECK": "true",  # google-auth, as it is imported
            "GOOGLE_APPLICATION_CREDENTIALS": "",
            "CLOUDSDK_CONFIG": os.devnull,
        }

    def _start_tls(self, stack) -> None:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = self._address or free_address()
        authority, certificate, key = make_certificates(folder)
        self._hosts = write_hosts(folder, address)
        adapter = TLSAdapter(certificate, key)
        self._serve(stack, address, 443, self._application, THREADS, adapter)
        metadata = metadata_server(self)
        port = self._serve(stack, address, 0, metadata, METADATA_THREADS)
        self.url = f"https://{address}"
        self._environment = variables(authority, f"{address}:{port}")

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead clients here."""
        return dict(self._environment)

    def command(self, arguments: list[str]) -> list[str]:
        """The command for a process for which Google's names mean this emulator.

        The process has the id of the one that is started. Only with TLS.
        """
        return in_namespace(self._hosts, arguments)

    def reset(self) -> None:
        """Empty buckets, an empty log, and all controls as in the beginning."""
        self.set_defaults()
        self.requests.clear()
        self._store = Store(self._buckets, self)

    def clear_requests(self) -> None:
        self.requests.clear()

    def objects(self, bucket: str) -> dict[str, bytes]:
        """The data of all objects by name, sorted."""
        return self._store.objects(bucket)

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """Makes an object without a request."""
        self._store.put(bucket, name, data)

    def delete_bucket(self, name: str) -> None:
        """Deletes a bucket and its objects without a request."""
        self._store.delete_bucket(name)

    # The WSGI application.

    def _application(self, environ, start_response):
        arrived = time.monotonic()
        request = HttpRequest(environ)
        entry = log_entry(request)
        self.requests.append(entry)
        fault = self.faults.first(f"{entry.method} {entry.path} {entry.agent}")
        self._stopping.wait(self.latency)
        response = self._respond(request, entry, fault)
        status, headers, body = response.encode(request.query.get("fields", ""))
        entry.status = response.status
        start_response(status, headers)
        return self._send(body, entry, fault, arrived)

    def _respond(self, request: HttpRequest, entry: Request, fault: Fault) -> Response:
        try:
            try:
                request.read_body()
            finally:
                entry.bytes_in = len(request.body)
                entry.bucket, entry.object = self._store.target(request)
            self._check(entry, fault)
            return self._store.respond(request)
        except ApiError as error:
            return error_response(error, request.as_json)

    def _check(self, entry: Request, fault: Fault) -> None:
        """Raises what keeps a request from being carried out."""
        if fault.reset:  # raised before the response begins, it ends the connection
            raise ConnectionResetError(errno.ECONNRESET, "injected")
        if fault.status is not None:
            phrase = http.client.responses.get(fault.status, "Unknown")
            raise ApiError(fault.status, f"{phrase} (injected)")
        if not self.accepts(entry.token):
            raise ApiError(401, "Invalid Credentials", UNAUTHORISED)

    def _send(self, body: bytes, entry: Request, fault: Fault, arrived: float):
        """Yields the response's body as far as the fault allows."""
        middle, end = 0, len(body)
        if fault.stall is not None:
            middle = len(body) // 2
            yield body[:middle]
            self._stopping.wait(fault.stall)
        if fault.truncate is not None:
            end = fault.truncate
        # Now, so that the client cannot have the whole response before.
        entry.bytes_out = min(end, len(body))
        entry.seconds = time.monotonic() - arrived
        yield body[middle:end]
        if fault.truncate is not None:
            raise ConnectionResetError(errno.ECONNRESET, "injected")
