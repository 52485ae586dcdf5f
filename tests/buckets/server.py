"""Cheroot's WSGI server, made to stop at once and to serve Cloud Storage's clients."""

import contextlib
import logging
import pathlib
import socket
import ssl
import threading

import cheroot.server
from cheroot import makefile, wsgi
from cheroot.ssl import Adapter

TIMEOUT = 60  # seconds for the next byte of a request, and for the next request


class HeaderReader(cheroot.server.HeaderReader):
    """Drops "Transfer-Encoding: identity" of TensorFlow, which cheroot refuses."""

    def __call__(self, rfile, hdict=None):
        headers = super().__call__(rfile, hdict)
        if headers.get(b"Transfer-Encoding", b"").lower() == b"identity":
            del headers[b"Transfer-Encoding"]
        return headers


class HTTPRequest(cheroot.server.HTTPRequest):
    header_reader = HeaderReader()


class HTTPConnection(cheroot.server.HTTPConnection):
    """A connection that its server knows until it is closed."""

    RequestHandlerClass = HTTPRequest

    def __init__(self, server, sock, makefile):
        super().__init__(server, sock, makefile)
        server.connections.add(self)

    def shutdown(self) -> None:
        """Ends the connection in both directions; its thread notices that and ends."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own, which is not safe while another thread reads.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def close(self) -> None:
        self.server.connections.discard(self)
        super().close()
        with contextlib.suppress(OSError, ValueError):
            self.wfile.close()  # else it tries to write what is left when collected


class TLSAdapter(Adapter):
    """TLS whose handshakes are made in the workers' threads, at the first read.

    Cheroot's own makes them in the thread that accepts connections, so that a client
    that is slow or paused blocks all others.
    """

    makefile = staticmethod(makefile.MakeFile)

    def __init__(self, certificate: pathlib.Path, key: pathlib.Path):
        super().__init__(certificate, key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)

    def bind(self, sock):
        return sock

    def wrap(self, sock):
        options = {"server_side": True, "do_handshake_on_connect": False}
        return self.context.wrap_socket(sock, **options), self.get_environ()

    def get_environ(self):
        return {"wsgi.url_scheme": "https", "HTTPS": "on"}


class Server(wsgi.Server):
    """A server in threads of this process; port 0 is any free port."""

    ConnectionClass = HTTPConnection
    expiration_interval = 0.02  # seconds that stopping may have to wait
    # pyrefly: ignore[bad-assignment]  # cheroot documents None: no limit
    keep_alive_conn_limit = None

    def __init__(self, address: str, port: int, application, threads: int):
        super().__init__(
            (address, port),
            application,
            numthreads=threads,
            request_queue_size=128,
            timeout=TIMEOUT,
            shutdown_timeout=1,
        )
        # Cheroot keeps all servers there for ever, and with them what they refer to.
        vars(logging)["statistics"].pop(f"Cheroot HTTPServer {id(self)}", None)
        self.connections: set[HTTPConnection] = set()
        self._thread = threading.Thread(target=self.serve, daemon=True)

    @property
    def port(self) -> int:
        return self.bind_addr[1]

    def error_log(self, msg="", level=20, traceback=False) -> None:
        """Silent: clients that close connections early are no errors here."""

    def put_conn(self, conn) -> None:
        try:
            super().put_conn(conn)
        except (KeyError, ValueError, OSError):  # just now stopped
            conn.close()

    def run(self) -> None:
        """Listens, and serves until `close`."""
        self.prepare()
        self._thread.start()

    def close(self) -> None:
        """Ends all connections and threads."""
        for connection in list(self.connections):
            connection.shutdown()
        self.stop()
        self._thread.join()
        for connection in list(self.connections):  # accepted, but never served
            connection.close()
