"""Calls to S3 over TLS: whom the client trusts, and what it says of others."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from buildstep.net.errors import HttpError
from buildstep.net.http import Http
from buildstep.net.request import HttpOptions
from buildstep.net.s3_direct import DirectS3

pytest.importorskip("cryptography")
KEYS = {"AWS_ACCESS_KEY_ID": "AKTEST", "AWS_SECRET_ACCESS_KEY": "sktestsecret"}
SHA256 = "ab" * 32


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key, and a certificate for 127.0.0.1 that nobody else vouches for."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private, public = folder / "key.pem", folder / "cert.pem"
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(signed.public_bytes(form.Encoding.PEM))
    return private, public


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_PUT(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.clients.add(self.client_address)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.bodies: list[bytes] = []
        self.clients: set[object] = set()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust us goes away."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    private, public = certificate(tmp_path_factory.mktemp("tls"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    with Server(context) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield found, public
        found.shutdown()
        thread.join()


def client(url: str, *, environ: dict[str, str] | None = None, **options: object) -> DirectS3:
    limits = HttpOptions(attempts=1, **options)  # type: ignore[arg-type]
    http = Http(environ={**KEYS, **(environ or {})}, options=limits)
    return DirectS3("s3://bucket", http=http, endpoint=url)


def put(s3: DirectS3, data: bytes | Path) -> None:
    size = len(data) if isinstance(data, bytes) else data.stat().st_size
    s3.put("k", data, size=size, sha256=SHA256, headers={})


@pytest.mark.parametrize("trusted", ["option", "variable", "everybody"])
def test_bytes_small_and_large_on_one_connection(
    server: tuple[Server, Path], tmp_path: Path, trusted: str
) -> None:
    found, public = server
    found.bodies.clear()
    found.clients.clear()
    match trusted:
        case "option":
            s3 = client(found.url, ca_bundle=str(public))
        case "variable":
            s3 = client(found.url, environ={"AWS_CA_BUNDLE": str(public)})
        case _:
            s3 = client(found.url, verify=False)
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 12_000)
    put(s3, b"small")
    put(s3, large)
    put(s3, b"")
    assert found.bodies == [b"small", large.read_bytes(), b""]
    assert len(found.clients) == 1, "what comes after a handshake does not make a connection look closed"


def test_a_certificate_that_nobody_vouches_for(server: tuple[Server, Path]) -> None:
    with pytest.raises(HttpError, match="the connection is not secure") as caught:
        put(client(server[0].url), b"x")
    assert "SSL_CERT_FILE" in caught.value.hint
    assert not caught.value.retryable
