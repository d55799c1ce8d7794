"""The shared HTTP session: limits, retries, trust, uploads, and no secrets in errors."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from buildstep.errors import ExitCode, ImageError
from buildstep.net.download import download
from buildstep.net.errors import HttpError, clean_text, safe_url
from buildstep.net.http import Http, translated
from buildstep.net.request import HttpOptions, HttpRequest
from buildstep.system.files import Slice
from tests.servers.fixtures import FAST, Notes, bus, http, imgapi_server
from tests.servers.imgapi import ImgapiServer
from tests.unit.net.test_download import HEAD, expected, file_url, leftovers

__all__ = ["bus", "file_url", "http", "imgapi_server"]


def within(seconds: float, begin: float) -> None:
    assert time.monotonic() - begin < seconds


class TestLimits:
    @pytest.mark.parametrize("kind", ["silent", "drip-head"])
    def test_an_answer_that_does_not_come(self, http: Http, imgapi_server: ImgapiServer, kind: str) -> None:
        imgapi_server.fail(kind, times=9)
        begin = time.monotonic()
        with pytest.raises(HttpError, match=r"no response within 0\.6 s") as caught:
            http.send(HttpRequest("GET", f"{imgapi_server.url}/ping", headers=HEAD))
        assert caught.value.retryable
        within(5, begin)

    @pytest.mark.parametrize("kind", ["drip", "stall", "truncate"])
    def test_a_body_that_does_not_end(
        self, http: Http, imgapi_server: ImgapiServer, file_url: str, tmp_path: Path, kind: str
    ) -> None:
        imgapi_server.fail(kind, path="/file", times=9)
        begin = time.monotonic()
        with pytest.raises(HttpError, match="broke off") as caught:
            download(http, HttpRequest("GET", file_url, headers=HEAD), tmp_path / "f", expected=expected())
        assert caught.value.retryable
        within(6, begin)
        assert leftovers(tmp_path) == []

    def test_an_error_with_a_body_that_never_comes(
        self, http: Http, imgapi_server: ImgapiServer, file_url: str, tmp_path: Path
    ) -> None:
        imgapi_server.fail("silent-500", path="/file", times=9)
        begin = time.monotonic()
        with pytest.raises(HttpError, match="500") as caught:
            download(http, HttpRequest("GET", file_url, headers=HEAD), tmp_path / "f", expected=expected())
        assert caught.value.status == 500
        within(5, begin)

    @pytest.mark.parametrize("kind", ["refused", "truncate"])
    def test_what_was_handled_before_is_no_cause(
        self, http: Http, imgapi_server: ImgapiServer, file_url: str, tmp_path: Path, kind: str
    ) -> None:
        """A store asks its index when it has refused to be listed: what is told is why it got no answer."""
        if kind != "refused":
            imgapi_server.fail(kind, path="/file", times=9)
        url = "http://127.0.0.1:9/x" if kind == "refused" else file_url
        try:
            raise OSError(5, "it cannot be listed")
        except OSError:
            with pytest.raises(HttpError) as caught:
                download(http, HttpRequest("GET", url, headers=HEAD), tmp_path / "f", expected=expected())
        assert "it cannot be listed" not in caught.value.message
        assert kind != "refused" or "Connection refused" in caught.value.message

    def test_nobody_there(self, http: Http, bus: Notes) -> None:
        with pytest.raises(HttpError, match="Connection refused") as caught:
            http.send(HttpRequest("GET", "http://127.0.0.1:1/x"))
        assert caught.value.retryable
        assert len(bus.texts) == FAST.attempts - 1

    @pytest.mark.parametrize("url", ["http://[bad", "ftp://127.0.0.1/x", "http://", "nonsense"])
    def test_an_address_that_is_none(self, http: Http, url: str) -> None:
        with pytest.raises(HttpError) as caught:
            http.send(HttpRequest("GET", url))
        assert not caught.value.retryable

    def test_an_endless_answer(self, http: Http, file_url: str) -> None:
        with pytest.raises(HttpError, match="more than 1000 bytes"):
            http.send(HttpRequest("GET", file_url, headers=HEAD, limit=1000))


class TestRetries:
    def test_a_passing_failure(self, http: Http, imgapi_server: ImgapiServer) -> None:
        imgapi_server.fail("503", times=2)
        assert http.send(HttpRequest("GET", f"{imgapi_server.url}/ping", headers=HEAD)).status == 200
        assert imgapi_server.calls("GET") == 3

    def test_is_bounded(self, http: Http, imgapi_server: ImgapiServer) -> None:
        imgapi_server.fail("503", times=99)
        with pytest.raises(HttpError, match="503"):
            http.send(HttpRequest("GET", f"{imgapi_server.url}/ping", headers=HEAD))
        assert imgapi_server.calls("GET") == FAST.attempts

    def test_not_what_cannot_pass(self, http: Http, imgapi_server: ImgapiServer) -> None:
        with pytest.raises(HttpError, match="404"):
            http.send(HttpRequest("GET", f"{imgapi_server.url}/nothing", headers=HEAD))
        assert imgapi_server.calls("GET") == 1

    def test_not_what_may_have_been_done(self, http: Http, imgapi_server: ImgapiServer) -> None:
        imgapi_server.fail("503", method="POST", times=9)
        with pytest.raises(HttpError):
            http.send(HttpRequest("POST", f"{imgapi_server.url}/images/x", headers=HEAD))
        assert imgapi_server.calls("POST") == 1


class TestSecrets:
    def test_in_addresses(self, http: Http) -> None:
        with pytest.raises(HttpError) as caught:
            http.send(HttpRequest("GET", "http://user:pass1@127.0.0.1:1/x?signature=secret2"))
        shown = f"{caught.value.message}{caught.value.detail}{caught.value.hint}{caught.value.__cause__}"
        assert "pass1" not in shown
        assert "secret2" not in shown

    def test_texts(self) -> None:
        assert safe_url("https://u:p@h:1/a/b?q=1#f") == "https://h:1/a/b"
        assert clean_text("see https://u:p@h/a?X-Sig=1 \x1b[31mred\n") == "see https://h/a [31mred"

    def test_a_failure_takes_its_area(self) -> None:
        with pytest.raises(ImageError, match="base: no") as caught, translated(ImageError, "base"):
            raise HttpError("no", hint="h", retryable=True)
        assert (caught.value.code, caught.value.hint) == (ExitCode.IMAGE, "h")
        assert caught.value.retryable


class TestTrust:
    def test_insecure_is_not_inverted(self) -> None:
        assert HttpOptions.of({}).verify
        assert not HttpOptions.of({}, insecure=True).verify

    def test_authorities_of_the_environment(self) -> None:
        assert HttpOptions.of({"SSL_CERT_FILE": "/ca.pem"}).ca_bundle == "/ca.pem"

    @pytest.mark.commands
    def test_a_certificate_that_nobody_vouches_for(self, tmp_path: Path, imgapi_server: ImgapiServer) -> None:
        import shutil
        import subprocess

        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-out", "c",
                "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]  # fmt: skip
        subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True, timeout=20)
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "c", tmp_path / "k")
        plain = imgapi_server._server.socket
        imgapi_server._server.socket = context.wrap_socket(
            plain, server_side=True, do_handshake_on_connect=False
        )
        url = imgapi_server.url.replace("http:", "https:") + "/ping"
        with Http(environ={}, options=FAST) as strict, pytest.raises(HttpError, match="not secure") as caught:
            strict.send(HttpRequest("GET", url, headers=HEAD))
        assert not caught.value.retryable
        with Http(environ={}, options=HttpOptions.of({}, insecure=True, attempts=1, response=3.0)) as loose:
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert loose.send(HttpRequest("GET", url, headers=HEAD)).status == 200
        bundle = {"SSL_CERT_FILE": str(tmp_path / "c")}
        with Http(environ=bundle, options=HttpOptions.of(bundle, attempts=1, response=3.0)) as known:
            assert known.send(HttpRequest("GET", url, headers=HEAD)).status == 200

    def test_a_proxy_is_used_and_passed_by(self, imgapi_server: ImgapiServer) -> None:
        proxied = {"http_proxy": "http://127.0.0.1:1"}
        with Http(environ=proxied, options=FAST) as http, pytest.raises(HttpError, match="proxy failed"):
            http.send(HttpRequest("GET", f"{imgapi_server.url}/ping", headers=HEAD))
        with Http(environ={**proxied, "no_proxy": "127.0.0.1"}, options=FAST) as http:
            assert http.send(HttpRequest("GET", f"{imgapi_server.url}/ping", headers=HEAD)).status == 200


class TestUpload:
    def test_an_early_refusal_is_the_answer(
        self, http: Http, imgapi_server: ImgapiServer, tmp_path: Path
    ) -> None:
        big = tmp_path / "big"
        with big.open("wb") as stream:
            stream.truncate(64 << 20)
        imgapi_server.fail("early-422", method="PUT")
        begin = time.monotonic()
        with pytest.raises(HttpError, match="422"):
            http.send(HttpRequest("PUT", f"{imgapi_server.url}/images/x/file", headers=HEAD, data=big))
        within(5, begin)

    def test_a_part_of_a_file(self, http: Http, imgapi_server: ImgapiServer, tmp_path: Path) -> None:
        path = tmp_path / "f"
        path.write_bytes(b"abcdefgh")
        manifest = imgapi_server.add(b"x")
        imgapi_server.images[manifest["uuid"]].manifest["state"] = "unactivated"
        url = f"{imgapi_server.url}/images/{manifest['uuid']}/file?compression=none"
        http.send(HttpRequest("PUT", url, headers=HEAD, data=Slice(path=path, offset=2, size=3)))
        assert imgapi_server.images[manifest["uuid"]].file == b"cde"
