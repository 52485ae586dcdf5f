"""What makes the emulator pass for Google: certificates, names, a metadata server."""

import contextlib
import functools
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import urllib.parse

from tests.buckets.controls import Controls
from tests.buckets.objects import ACCOUNT

NAMES = (
    "www.googleapis.com",
    "storage.googleapis.com",
    "oauth2.googleapis.com",
    "metadata.google.internal",
)
CERTIFICATE_VARIABLES = (
    "CURL_CA_BUNDLE",  # TensorFlow
    "SSL_CERT_FILE",
    "TENSORSTORE_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",  # google-cloud-storage
)
METADATA_VARIABLES = (
    "GCE_METADATA_HOST",  # TensorFlow and google-auth
    "GCE_METADATA_ROOT",  # TensorStore
    "GCE_METADATA_IP",
)
UNSET = (  # what would lead to real credentials, or away from the emulator
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_AUTH_TOKEN_FOR_TESTING",
    "NO_GCE_CHECK",
    "STORAGE_EMULATOR_HOST",
    "TENSORSTORE_GCS_HTTP_URL",
    *("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"),
)
# With exec, so that the process keeps its id and gets the signals.
SCRIPT = f"""
unset {" ".join(UNSET)}
hosts=$1
shift
mount --bind "$hosts" /etc/hosts && exec "$@"
"""
SERVICE_ACCOUNT = "/computeMetadata/v1/instance/service-accounts/default"
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
METADATA = {
    "": "computeMetadata/",
    SERVICE_ACCOUNT: {"email": ACCOUNT, "aliases": ["default"], "scopes": SCOPES},
    f"{SERVICE_ACCOUNT}/email": ACCOUNT,
    f"{SERVICE_ACCOUNT}/scopes": SCOPES[0],
    "/computeMetadata/v1/project/project-id": "emulated",
    "/computeMetadata/v1/universe/universe-domain": "googleapis.com",
    "/computeMetadata/v1/instance/zone": "projects/1/zones/us-central1-a",
}


def in_namespace(hosts: str | os.PathLike, arguments: list[str]) -> list[str]:
    """The command, run in a mount namespace with another /etc/hosts."""
    script = ["unshare", "--mount", "bash", "-c", SCRIPT, "bash", str(hosts)]
    return [*script, *arguments]


@functools.cache
def why_not() -> str:
    """Why processes cannot be made to take the emulator for Google; "" if they can."""
    if sys.platform != "linux":
        return "mount namespaces need Linux"
    if os.geteuid() != 0:
        return "port 443 and mount namespaces need root"
    for program in ("openssl", "unshare", "mount", "bash"):
        if not shutil.which(program):
            return f"{program} is not installed"
    command = in_namespace("/etc/hosts", ["true"])
    result = subprocess.run(command, capture_output=True, text=True)
    return f"no mount namespace: {result.stderr}" if result.returncode else ""


def free_address() -> str:
    """A loopback address whose port 443 is free."""
    numbers = list(range(11, 255))
    random.shuffle(numbers)  # other processes of the tests look at the same time
    for number in numbers:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((f"127.0.0.{number}", 443))
            return f"127.0.0.{number}"
    raise OSError("Port 443 is in use at all loopback addresses.")


def variables(authority: pathlib.Path, metadata_address: str) -> dict[str, str]:
    """What makes clients trust the authority and find the metadata server."""
    return {
        **dict.fromkeys(CERTIFICATE_VARIABLES, str(authority)),
        **dict.fromkeys(METADATA_VARIABLES, metadata_address),
        "CLOUDSDK_CONFIG": os.devnull,  # no credentials of gcloud
    }


def write_hosts(folder: pathlib.Path, address: str) -> pathlib.Path:
    """Writes /etc/hosts of this machine, with the address for Google's names."""
    hosts = folder / "hosts"
    lines = "".join(f"{address} {name}\n" for name in NAMES)
    hosts.write_text(lines + pathlib.Path("/etc/hosts").read_text())
    return hosts


def make_certificates(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Makes an authority, and a certificate for Google's names.

    Returns:
      the files of the authority's certificate, of the certificate and of its key.
    """
    authority, authority_key = folder / "authority.pem", folder / "authority.key"
    request, certificate, key = (folder / f"server.{x}" for x in ("csr", "pem", "key"))
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl(
        *("req", "-x509", *new_key, "-keyout", authority_key, "-out", authority),
        *("-days", "30", "-subj", "/CN=Emulated authority"),
        *("-addext", "keyUsage=critical,keyCertSign"),
    )
    subject = ("-subj", f"/CN={NAMES[0]}")
    _openssl("req", *new_key, "-keyout", key, "-out", request, *subject)
    extensions = folder / "extensions"
    extensions.write_text(
        f"subjectAltName={','.join(f'DNS:{name}' for name in NAMES)}\n"
        "basicConstraints=CA:FALSE\n"
        "extendedKeyUsage=serverAuth\n"
        "authorityKeyIdentifier=keyid\n"
    )
    _openssl(
        *("x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority_key),
        *("-days", "30", "-CAcreateserial", "-extfile", extensions),
        *("-out", certificate),
    )
    return authority, certificate, key


def _openssl(*arguments) -> None:
    command = ["openssl", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


def metadata_server(controls: Controls):
    """As much of a machine's metadata server as the clients use: a WSGI application."""

    def application(environ, start_response):
        path = urllib.parse.unquote(environ["PATH_INFO"]).rstrip("/")
        path = path.replace(f"/{ACCOUNT}", "/default")  # TensorStore's name for it
        status, body = 200, METADATA.get(path)
        if path == f"{SERVICE_ACCOUNT}/token":
            status, body = _token(controls)
        elif body is None:
            status, body = 404, "Not found"
        content_type = "text" if isinstance(body, str) else "json"
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        headers = [
            ("Metadata-Flavor", "Google"),
            ("Content-Type", f"application/{content_type}"),
            ("Content-Length", str(len(data))),
        ]
        start_response(f"{status} Status", headers)
        return [data]

    return application


def _token(controls: Controls) -> tuple[int, dict]:
    if controls.token_status != 200:
        return controls.token_status, {"error": "injected"}
    body = {"access_token": controls.new_token(), "token_type": "Bearer"}
    return 200, body | {"expires_in": controls.token_seconds}
