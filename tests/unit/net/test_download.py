"""Downloads: resumed, verified, done once by several at the same time, and read while they come."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from buildstep.errors import DiskError
from buildstep.events import Gauge
from buildstep.net.download import Downloaded, Follower, Progress, download
from buildstep.net.errors import HttpError
from buildstep.net.http import Http
from buildstep.net.request import HttpRequest
from buildstep.system.digest import Expected
from tests.servers.fixtures import bus, http, imgapi_server
from tests.servers.imgapi import ImgapiServer

__all__ = ["bus", "http", "imgapi_server"]

HEAD = {"Accept-Version": "~2", "x-request-id": "00000000-0000-0000-0000-000000000001"}
DATA = os.urandom(3 << 20)


@pytest.fixture
def file_url(imgapi_server: ImgapiServer) -> str:
    uuid = imgapi_server.add(DATA)["uuid"]
    return f"{imgapi_server.url}/images/{uuid}/file"


def expected(data: bytes = DATA) -> Expected:
    return Expected(
        size=len(data), sha1=hashlib.sha1(data).hexdigest(), sha256=hashlib.sha256(data).hexdigest()
    )


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


class TestDownload:
    def fetch(self, http: Http, url: str, target: Path) -> Downloaded:
        return download(http, HttpRequest("GET", url, headers=HEAD), target, expected=expected())

    def test_plain(self, http: Http, file_url: str, tmp_path: Path) -> None:
        done = self.fetch(http, file_url, tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == DATA
        assert done.sha256 == expected().sha256
        assert done.fetched == len(DATA)
        assert leftovers(tmp_path) == ["f"]

    @pytest.mark.parametrize("kind", ["", "truncate", "there"])
    def test_a_gauge_is_told_of_every_byte_once(
        self, http: Http, imgapi_server: ImgapiServer, file_url: str, tmp_path: Path, kind: str
    ) -> None:
        """Also of those that are there, and where the rest has to be asked for."""
        if kind == "there":
            (tmp_path / "f").write_bytes(DATA)
        elif kind:
            imgapi_server.fail(kind, path="/file")
        progress = Progress(Gauge("download", len(DATA)))
        request = HttpRequest("GET", file_url, headers=HEAD)
        download(http, request, tmp_path / "f", expected=expected(), progress=progress)
        assert progress.gauge is not None
        assert progress.gauge.reading() == (len(DATA), 1, "")

    def test_what_is_there_is_proved_and_not_fetched(
        self, http: Http, imgapi_server: ImgapiServer, file_url: str, tmp_path: Path
    ) -> None:
        (tmp_path / "f").write_bytes(DATA)
        assert self.fetch(http, file_url, tmp_path / "f").fetched == 0
        assert imgapi_server.calls("GET") == 0
        (tmp_path / "f").write_bytes(DATA[:-1] + b"?")
        self.fetch(http, file_url, tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == DATA

    @pytest.mark.parametrize(("kind", "why"), [("flip", "sha1"), ("long", "would have")])
    def test_wrong_content(
        self, http: Http, imgapi_server: ImgapiServer, file_url: str, tmp_path: Path, kind: str, why: str
    ) -> None:
        imgapi_server.fail(kind, path="/file", times=9)
        with pytest.raises(HttpError, match=why):
            self.fetch(http, file_url, tmp_path / "f")
        assert leftovers(tmp_path) == []

    def test_begun_anew_where_ranges_are_ignored(
        self, http: Http, imgapi_server: ImgapiServer, file_url: str, tmp_path: Path
    ) -> None:
        imgapi_server.fail("truncate", path="/file")
        done = self.fetch(http, file_url, tmp_path / "f")
        assert done.path.read_bytes() == DATA
        assert imgapi_server.ranges_asked
        assert done.fetched > len(DATA)

    def test_resumed_where_the_server_can(
        self, http: Http, imgapi_server: ImgapiServer, file_url: str, tmp_path: Path
    ) -> None:
        imgapi_server.ranges = True
        imgapi_server.fail("truncate", path="/file")
        done = self.fetch(http, file_url, tmp_path / "f")
        assert done.path.read_bytes() == DATA
        assert done.fetched == len(DATA)

    def test_resumed_by_the_next_run(
        self, http: Http, imgapi_server: ImgapiServer, file_url: str, tmp_path: Path
    ) -> None:
        imgapi_server.ranges = True
        (tmp_path / "f.partial").write_bytes(DATA[:1000000])
        done = self.fetch(http, file_url, tmp_path / "f")
        assert done.path.read_bytes() == DATA
        assert done.fetched == len(DATA) - 1000000

    def test_a_wrong_piece_from_before(
        self, http: Http, imgapi_server: ImgapiServer, file_url: str, tmp_path: Path
    ) -> None:
        imgapi_server.ranges = True
        (tmp_path / "f.partial").write_bytes(b"not the beginning of it")
        assert self.fetch(http, file_url, tmp_path / "f").path.read_bytes() == DATA
        assert leftovers(tmp_path) == ["f"]

    @pytest.mark.parametrize("extra", [b"", b"more than there is"])
    def test_a_whole_piece_from_before(self, http: Http, file_url: str, tmp_path: Path, extra: bytes) -> None:
        (tmp_path / "f.partial").write_bytes(DATA + extra)
        done = self.fetch(http, file_url, tmp_path / "f")
        assert done.path.read_bytes() == DATA

    def test_two_at_once_download_once(
        self, http: Http, imgapi_server: ImgapiServer, file_url: str, tmp_path: Path
    ) -> None:
        threads = [
            threading.Thread(target=self.fetch, args=(http, file_url, tmp_path / "f")) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert imgapi_server.calls("GET", "/file") == 1

    def test_no_room(self, http: Http, file_url: str, tmp_path: Path) -> None:
        with pytest.raises(DiskError, match=r"No space left on device: .* free, about .* are needed"):
            download(
                http,
                HttpRequest("GET", file_url),
                tmp_path / "f",
                expected=Expected(size=1 << 60, sha1="0" * 40),
            )


class TestFollower:
    def test_reads_while_it_comes(
        self, http: Http, imgapi_server: ImgapiServer, file_url: str, tmp_path: Path
    ) -> None:
        imgapi_server.ranges = True
        imgapi_server.fail("truncate", path="/file")
        progress = Progress()
        results: list[Downloaded] = []
        thread = threading.Thread(
            target=lambda: results.append(
                download(
                    http,
                    HttpRequest("GET", file_url, headers=HEAD),
                    tmp_path / "f",
                    expected=expected(),
                    progress=progress,
                )
            )
        )
        follower = Follower(progress)
        thread.start()
        first = follower.read(1000)
        assert DATA.startswith(first)
        rest = follower.read()
        thread.join(10)
        assert first + rest == DATA
        follower.verify(results[0])
        follower.close()

    def test_is_told_of_failure(self, http: Http, imgapi_server: ImgapiServer, tmp_path: Path) -> None:
        progress = Progress()
        request = HttpRequest("GET", f"{imgapi_server.url}/no", headers=HEAD)
        with pytest.raises(HttpError):
            download(http, request, tmp_path / "f", expected=expected(), progress=progress)
        with pytest.raises(HttpError):
            Follower(progress).read(10)

    def test_finds_what_changed_behind_it(self, tmp_path: Path) -> None:
        path = tmp_path / "f"
        path.write_bytes(b"wrong")
        progress = Progress()
        progress.finish(path, 5)
        follower = Follower(progress)
        assert follower.read(100) == b"wrong"
        with pytest.raises(HttpError, match="changed while it was read"):
            follower.verify(
                Downloaded(path=path, size=5, sha1="", sha256=hashlib.sha256(b"right").hexdigest())
            )
        follower.close()
