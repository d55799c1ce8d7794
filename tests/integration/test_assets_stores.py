"""One contract over every store of assets: a directory, S3 that obeys conditions and S3 that does not, a web
server, ssh; and what daybook itself has put there."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from buildstep.assets import open_assets
from buildstep.assets.interface import AssetStore, AssetTaken, Details
from buildstep.assets.names import Name
from buildstep.assets.push import Options, Upload, push
from buildstep.errors import StoreError, UsageError
from buildstep.files.interface import Missing, ReadOnly, Unlistable
from buildstep.net.http import Http
from buildstep.net.s3 import S3Client
from buildstep.net.s3_direct import DirectS3
from buildstep.net.s3_errors import S3Error
from tests.integration.conftest import demand
from tests.integration.test_stores import at_once
from tests.servers.archives import details, tarball
from tests.servers.faulty import faulty
from tests.servers.fixtures import Notes, S3Store, bus, rclone, weed
from tests.servers.stores import OPTIONS, rclone_serving, serving, sshd_serving

__all__ = ["bus", "rclone", "weed"]

S3 = ["weed", "rclone"]
WRITABLE = ["dir", *S3, "ssh"]
WEB = ["web", "web-no-ranges"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where assets can lie. url: to write, read: to read; folder: where they are files of this machine;
    conditional: whether of two writers at the same moment only one wins."""

    url: str
    read: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    endpoint: str = ""
    folder: Path | None = None
    conditional: bool = True

    def sub(self, name: str) -> Place:
        """An empty place of its own in this one."""
        return replace(
            self,
            url=f"{self.url}/{name}",
            read=f"{self.read}/{name}" if self.read else "",
            folder=self.folder / name if self.folder else None,
        )

    def writer(self, bus: Notes | None = None, endpoint: str = "") -> AssetStore:
        return self._open(self.url, bus, endpoint)

    def reader(self, endpoint: str = "") -> AssetStore:
        return self._open(self.read or self.url, None, endpoint)

    def _open(self, url: str, bus: Notes | None, endpoint: str) -> AssetStore:
        return open_assets(
            url, environ=self.environ, bus=bus, http=OPTIONS, endpoint=endpoint or self.endpoint
        )

    def put_as_daybook(self, file: str, data: bytes) -> None:
        """Store an object as daybook does: with its content type and nothing else told of it."""
        if self.endpoint:
            http = Http(environ=self.environ, options=OPTIONS)
            client = DirectS3(self.url, http=http, endpoint=self.endpoint)
            client.put(
                file,
                data,
                size=len(data),
                sha256=details(data).sha256,
                headers={"content-type": "application/x-gtar", "x-amz-acl": "private"},
            )
        else:
            assert self.folder is not None
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.folder / file).write_bytes(data)


@pytest.fixture(scope="module", params=[*WRITABLE, *WEB])
def any_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from place_of(request, request.param)


@pytest.fixture(scope="module", params=WRITABLE)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from place_of(request, request.param)


def place_of(request: pytest.FixtureRequest, kind: str) -> Iterator[Place]:
    """A new, empty place for the tests of this file."""
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    top = factory.mktemp("assets") / "top"
    if kind == "dir":
        yield Place(url=f"dir:{top}", folder=top)
    elif kind in S3:
        store: S3Store = request.getfixturevalue(kind)
        yield s3_place(store, f"assets/{os.urandom(4).hex()}")
    elif kind == "ssh":
        demand("sshd", "ssh", "rsync")
        with sshd_serving(factory.mktemp("sshd")) as (url, config):
            yield Place(url=f"{url}{top}", environ={"BUILDSTEP_SSH_CONFIG": str(config)}, folder=top)
    else:
        top.mkdir(mode=0o700)
        served = rclone_serving(top, factory.mktemp("log")) if kind == "web" else serving(top)
        with served as url:
            yield Place(url=f"dir:{top}", read=url, folder=top)


def s3_place(store: S3Store, prefix: str) -> Place:
    return Place(
        url=f"s3://{store.bucket}/{prefix}",
        environ=store.environ,
        endpoint=store.endpoint,
        folder=store.folder / prefix if store.folder else None,
        conditional=store.folder is None,
    )


def read(store: AssetStore, name: Name, piece: int = 1 << 16) -> tuple[bytes, Details]:
    with store.open(name) as incoming:
        return b"".join(iter(lambda: incoming.read(piece), b"")), incoming.details


ODD = Name("_w9", "1.2.0~rc1+b3", ".tar.gz")
HYPHENS = Name("web", "1.2-rc1", ".tar.zst")
BIG = Name("big", "1", ".tar.gz")
BIG_DATA = random.Random(5).randbytes(9 << 20)


@pytest.fixture(scope="module")
def there(any_place: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place with a few assets; the bytes of one are its own name."""
    found, folder = any_place.sub("reading"), tmp_path_factory.mktemp("there")
    store = found.writer()
    for name in (ODD, HYPHENS, BIG):
        path = folder / name.file
        path.write_bytes(BIG_DATA if name == BIG else name.file.encode())
        assert store.put(name, path, details(path, "c2ln" if name == ODD else "")) is True
    found.put_as_daybook("web-1.tar.gz", b"of daybook")
    for other in ("website", "web.tar.gz", "web-1.sha256", "webapp-7.tar.gz", "web_api-3.tar.gz"):
        found.put_as_daybook(other, b"x")
    if found.read:
        store.make_index()
    return found


class TestReading:
    def test_list(self, there: Place) -> None:
        store = there.reader()
        found = {asset.name.file: asset.size for asset in store.list()}
        assert found == {
            ODD.file: len(ODD.file), HYPHENS.file: len(HYPHENS.file), BIG.file: len(BIG_DATA),
            "web-1.tar.gz": 10, "webapp-7.tar.gz": 1, "web_api-3.tar.gz": 1,
        }  # fmt: skip
        assert list(store.list("nothing")) == []
        with pytest.raises(UsageError, match="no name of a service"):
            list(store.list("../x"))

    def test_d01_services_that_begin_alike_are_not_mixed(self, there: Place) -> None:
        found = {asset.name for asset in there.reader().list("web")}
        assert found == {HYPHENS, Name("web", "1", ".tar.gz")}

    def test_d02_what_is_no_asset_is_left_out_and_a_hyphen_cuts_nothing(self, there: Place) -> None:
        found = {asset.name.file for asset in there.reader().list()}
        assert found.isdisjoint({"website", "web.tar.gz", "web-1.sha256"})
        assert HYPHENS.file in found
        assert read(there.reader(), HYPHENS)[0] == HYPHENS.file.encode()

    def test_times_and_etags(self, there: Place) -> None:
        rows = {asset.name: asset for asset in there.reader().list()}
        assert all(abs(row.modified - time.time()) < 300 for row in rows.values())
        again = {asset.name: asset for asset in there.reader().list()}
        assert rows == again

    def test_bytes_and_what_is_told_of_them(self, there: Place) -> None:
        store = there.reader()
        assert read(store, ODD) == (ODD.file.encode(), details(ODD.file.encode(), "c2ln"))
        assert store.details(ODD) == details(ODD.file.encode(), "c2ln")
        data, told = read(store, BIG)
        assert data == BIG_DATA
        assert told == details(BIG_DATA)
        with store.open(BIG) as incoming:
            assert incoming.read() == BIG_DATA
            assert incoming.read() == b""

    def test_after_a_listing_the_same_is_told(self, there: Place) -> None:
        store = there.reader()
        list(store.list())
        assert store.details(ODD) == details(ODD.file.encode(), "c2ln")
        assert read(store, BIG)[1] == details(BIG_DATA)

    def test_of_what_daybook_put_no_sha256_is_known(self, there: Place) -> None:
        name = Name("web", "1", ".tar.gz")
        assert read(there.reader(), name) == (b"of daybook", Details(sha256="", size=10))
        assert there.reader().details(name) == Details(sha256="", size=10)

    def test_an_asset_that_is_not_there(self, there: Place) -> None:
        name, store = Name("web", "404", ".tar.gz"), there.reader()
        with pytest.raises(Missing, match=r"web-404\.tar\.gz"):
            store.details(name)
        with pytest.raises(Missing, match=r"web-404\.tar\.gz"):
            read(store, name)

    def test_its_address_tells_no_secret(self, there: Place) -> None:
        assert "sktestsecret" not in there.reader().url


class TestWriting:
    @pytest.fixture
    def own(self, place: Place, request: pytest.FixtureRequest) -> Place:
        """An empty place for one test."""
        return place.sub(request.function.__name__)

    NAME = Name("web", "1.0", ".tar.gz")

    def put(self, store: AssetStore, path: Path, data: bytes, signature: str = "", **options: bool) -> bool:
        path.write_bytes(data)
        return store.put(self.NAME, path, details(path, signature), **options)

    def test_d04_a_version_does_not_change(self, own: Place, tmp_path: Path) -> None:
        store = own.writer()
        assert self.put(store, tmp_path / "a", b"first")
        assert not self.put(store, tmp_path / "a", b"first")
        for other in (b"other", b"fir"):
            with pytest.raises(AssetTaken, match=r"another web-1\.0\.tar\.gz") as caught:
                self.put(store, tmp_path / "a", other)
            assert "--replace" in caught.value.hint
        assert read(own.reader(), self.NAME) == (b"first", details(b"first"))

    def test_replace(self, own: Place, tmp_path: Path) -> None:
        store = own.writer()
        assert self.put(store, tmp_path / "a", b"first", "c2ln")
        assert self.put(store, tmp_path / "a", b"second one", replace=True)
        assert read(own.reader(), self.NAME) == (b"second one", details(b"second one"))
        assert self.put(store, tmp_path / "a", b"second one", replace=True)
        assert read(own.reader(), self.NAME) == (b"second one", details(b"second one"))

    def test_replaced_it_is_there_at_every_moment(self, own: Place, tmp_path: Path) -> None:
        """A host that prunes must not take it for deleted."""
        if not own.conditional:
            pytest.skip("of this server it is not known")
        store, reader = own.writer(), own.reader()
        self.put(store, tmp_path / "a", b"0")
        done, seen = threading.Event(), set()

        def watch() -> None:
            while not done.is_set():
                seen.add(tuple(asset.name for asset in reader.list()))

        thread = threading.Thread(target=watch)
        thread.start()
        for number in range(1, 6):
            self.put(store, tmp_path / "a", b"%d" % number * 1000, replace=True)
        done.set()
        thread.join()
        assert seen == {(self.NAME,)}

    def test_the_same_bytes_with_another_signature_are_told(self, own: Place, tmp_path: Path) -> None:
        store = own.writer()
        assert self.put(store, tmp_path / "a", b"first")
        with pytest.raises(AssetTaken, match="without a signature"):
            self.put(store, tmp_path / "a", b"first", "c2ln")
        assert self.put(store, tmp_path / "a", b"first", "c2ln", replace=True)
        assert not self.put(store, tmp_path / "a", b"first"), "who does not sign has nothing to say to it"
        assert store.details(self.NAME).signature == "c2ln"

    def test_what_daybook_put_is_compared_by_its_bytes(self, own: Place, tmp_path: Path) -> None:
        own.put_as_daybook(self.NAME.file, b"of daybook")
        store = own.writer()
        assert not self.put(store, tmp_path / "a", b"of daybook")
        with pytest.raises(AssetTaken):
            self.put(store, tmp_path / "a", b"0f daybook")

    def test_d04_of_many_who_push_one_version_one_wins(self, own: Place, tmp_path: Path) -> None:
        if not own.conditional:
            pytest.skip("this server ignores conditions")
        stores = [own.writer(), own.writer()]
        for number in range(8):
            (tmp_path / str(number)).write_bytes(b"%d" % number * 50_000)

        def one(number: int) -> bool:
            path = tmp_path / str(number)
            try:
                return stores[number % 2].put(self.NAME, path, details(path))
            except AssetTaken:
                return False

        won = at_once(8, one)
        assert sorted(won) == [False] * 7 + [True]
        winner = b"%d" % won.index(True) * 50_000
        assert read(own.reader(), self.NAME) == (winner, details(winner))

    def test_delete(self, own: Place, tmp_path: Path) -> None:
        store = own.writer()
        assert self.put(store, tmp_path / "a", b"first")
        store.delete(self.NAME)
        assert list(store.list()) == []
        for call in (store.delete, store.details):
            with pytest.raises(Missing):
                call(self.NAME)
        assert self.put(store, tmp_path / "a", b"other")
        assert read(store, self.NAME) == (b"other", details(b"other"))

    def test_an_empty_file(self, own: Place, tmp_path: Path) -> None:
        assert self.put(own.writer(), tmp_path / "a", b"")
        assert read(own.reader(), self.NAME) == (b"", details(b""))

    def test_push_of_many(self, own: Place, tmp_path: Path) -> None:
        uploads = []
        for number in range(5):
            name = Name(f"s{number}", f"1.{number}", ".tar.gz")
            uploads.append(Upload(name, tarball(tmp_path / name.file)))
        done = push(own.writer(), uploads, Options())
        assert [(row.upload, row.stored, row.error) for row in done] == [(u, True, None) for u in uploads]
        again = push(own.writer(), uploads, Options())
        assert [(row.stored, row.error) for row in again] == [(False, None)] * 5
        assert {asset.name for asset in own.reader().list()} == {upload.name for upload in uploads}
        for upload in uploads:
            assert read(own.reader(), upload.name) == (upload.path.read_bytes(), details(upload.path))

    def test_one_version_in_two_forms_is_refused(self, own: Place, tmp_path: Path) -> None:
        path, name = tarball(tmp_path / "a.tar.gz"), Name("web", "1.0", ".tar.zst")
        store = own.writer()
        store.put(name, path, details(path))
        upload = Upload(self.NAME, path)
        (refused,) = push(store, [upload], Options())
        assert isinstance(refused.error, AssetTaken)
        assert "web-1.0.tar.zst" in refused.error.message
        (done,) = push(store, [upload], Options(replace=True))
        assert (done.error, done.stored) == (None, True)
        assert [asset.name for asset in store.list()] == [self.NAME]


@pytest.mark.parametrize("any_place", WEB, indirect=True)
def test_a_web_server_is_for_readers(there: Place, tmp_path: Path) -> None:
    store, path = there.reader(), tarball(tmp_path / "a.tar.gz")
    for call in (
        lambda: store.put(TestWriting.NAME, path, details(path)),
        lambda: store.put(ODD, path, details(path), replace=True),
        lambda: store.delete(ODD),
        store.make_index,
    ):
        with pytest.raises((ReadOnly, Unlistable)):
            call()


@pytest.mark.parametrize("any_place", WEB[:1], indirect=True)
class TestIndex:
    def test_without_one_a_web_server_cannot_be_listed(self, any_place: Place, tmp_path: Path) -> None:
        own, path = any_place.sub("bare"), tarball(tmp_path / "a.tar.gz")
        own.writer().put(ODD, path, details(path))
        with pytest.raises(Unlistable, match="index") as caught:
            list(own.reader().list())
        assert "assets index" in caught.value.hint
        assert read(own.reader(), ODD)[1] == details(path)

    def test_it_is_kept_up_to_date(self, any_place: Place, tmp_path: Path) -> None:
        own, path = any_place.sub("kept"), tarball(tmp_path / "a.tar.gz")
        store = own.writer()
        assert store.make_index() == 0
        push(store, [Upload(ODD, path), Upload(HYPHENS._replace(form=".tar.gz"), path)], Options())
        listed = list(own.reader().list())
        assert {row.name for row in listed} == {ODD, HYPHENS._replace(form=".tar.gz")}
        assert {row.size for row in listed} == {path.stat().st_size}
        store.delete(ODD)
        store.finish()
        assert [row.name for row in own.reader().list("web")] == [HYPHENS._replace(form=".tar.gz")]
        assert list(own.reader().list("_w9")) == []

    def test_many_who_push_lose_nothing(self, any_place: Place, tmp_path: Path) -> None:
        own, path = any_place.sub("many"), tarball(tmp_path / "a.tar.gz")
        own.writer().make_index()

        def one(number: int) -> bool:
            push(own.writer(), [Upload(Name("s", str(number), ".tar.gz"), path)], Options())
            return True

        at_once(6, one)
        assert sorted(row.name.version for row in own.reader().list()) == [str(n) for n in range(6)]


# -- S3 alone ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3(weed: S3Store) -> Place:
    return s3_place(weed, f"s3/{os.urandom(4).hex()}")


def test_d03_more_than_a_page_is_listed(s3: Place) -> None:
    own = s3.sub("pages")
    http = Http(environ=own.environ, options=OPTIONS)
    client = DirectS3(own.url, http=http, endpoint=own.endpoint)

    def one(number: int) -> bool:
        for index in range(number, 1003, 6):
            client.put(f"web-{index}.tar.gz", b"", size=0, sha256=details(b"").sha256, headers={})
        return True

    at_once(6, one)
    found = [asset.name.version for asset in own.reader().list("web")]
    assert sorted(found, key=int) == [str(number) for number in range(1003)]


def test_d05_endpoint_region_and_credentials_are_settings(
    s3: Place, weed: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each alone, and the chain of AWS where the environment has no keys."""
    own, path = s3.sub("settings"), tarball(tmp_path / "a.tar.gz")
    own.writer().put(ODD, path, details(path))
    by_variable = {**weed.environ, "AWS_ENDPOINT_URL": weed.endpoint, "AWS_REGION": "eu-west-3"}
    store = open_assets(own.url, environ=by_variable, http=OPTIONS)
    assert [row.name for row in store.list()] == [ODD]
    config = tmp_path / "config"
    config.write_text(
        "[profile ci]\nregion = eu-north-1\naws_access_key_id = AKTEST\naws_secret_access_key = sktestsecret\n"
        f"endpoint_url = {weed.endpoint}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key, raising=False)
    store = open_assets(own.url, environ={"AWS_PROFILE": "ci"}, http=OPTIONS)
    assert [row.name for row in store.list()] == [ODD]
    store = open_assets(own.url, environ={}, http=OPTIONS, endpoint=weed.endpoint)
    with pytest.raises(S3Error, match="no credentials") as caught:
        list(store.list())
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


@pytest.mark.parametrize(
    ("changed", "match", "hint"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch", "secret key is wrong"),
        ({"AWS_ACCESS_KEY_ID": "AKNOBODY"}, "InvalidAccessKeyId", "not known"),
        (
            {"AWS_ACCESS_KEY_ID": "AKRO", "AWS_SECRET_ACCESS_KEY": "skreadonly"},
            "AccessDenied",
            "do not permit",
        ),
    ],
    ids=["secret", "key", "read-only"],
)
def test_d05_refused_credentials(
    s3: Place, changed: dict[str, str], match: str, hint: str, tmp_path: Path
) -> None:
    own, path = replace(s3.sub("refused"), environ={**s3.environ, **changed}), tarball(tmp_path / "a.tar.gz")
    with pytest.raises(S3Error, match=match) as caught:
        own.writer().put(ODD, path, details(path))
    assert hint in caught.value.hint
    assert "sktestsecret" not in str(caught.value)


def test_a_bucket_that_is_not_there(s3: Place) -> None:
    nowhere = replace(s3, url="s3://no-such-bucket")
    for call in (lambda: list(nowhere.reader().list()), lambda: read(nowhere.reader(), ODD)):
        with pytest.raises(S3Error, match="NoSuchBucket") as caught:
            call()
        assert "bucket" in caught.value.hint


def test_what_boto3_reads_of_ours(s3: Place, tmp_path: Path) -> None:
    """Two clients that share no code agree on keys, metadata and bytes, odd characters among them."""
    own, path = s3.sub("with~odd+signs"), tarball(tmp_path / "a.tar.gz")
    own.writer().put(ODD, path, details(path))
    http = Http(environ=own.environ, options=OPTIONS)
    client = S3Client(own.url, http=http, endpoint=own.endpoint)
    assert client.get(ODD.file) == path.read_bytes()
    info = client.head(ODD.file)
    assert info is not None
    assert info.sha256 == details(path).sha256
    assert [row.key for row in client.list("_")] == [ODD.file]


def test_d04_bytes_that_are_altered_on_the_way_are_not_stored(s3: Place) -> None:
    own = s3.sub("altered")
    http = Http(environ=own.environ, options=replace(OPTIONS, attempts=1))
    client = DirectS3(own.url, http=http, endpoint=own.endpoint)
    with pytest.raises(S3Error, match="BadDigest") as caught:
        client.put("web-1.tar.gz", b"altered", size=7, sha256=details(b"as sent").sha256, headers={})
    assert caught.value.retryable
    assert list(own.reader().list()) == []


def test_d04_a_large_asset_is_sent_in_parts(
    s3: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buildstep.net.s3_direct.MULTIPART_FROM", 6 << 20)
    monkeypatch.setattr("buildstep.net.s3_direct._PART", 5 << 20)
    own, path = s3.sub("parts"), tmp_path / "big"
    path.write_bytes(random.Random(6).randbytes((11 << 20) + 7))
    store = own.writer()
    assert store.put(BIG, path, details(path))
    (asset,) = store.list()
    assert asset.etag.endswith('-3"'), "three parts"
    assert read(store, BIG, 1 << 20) == (path.read_bytes(), details(path))
    assert not store.put(BIG, path, details(path))
    path.write_bytes(random.Random(7).randbytes(11 << 20))
    with pytest.raises(AssetTaken):
        store.put(BIG, path, details(path))


def test_a_server_that_ignores_conditions_is_found_out_once(
    rclone: S3Store, bus: Notes, tmp_path: Path
) -> None:
    store, path = s3_place(rclone, "ignores").writer(bus), tarball(tmp_path / "a.tar.gz")
    for number in range(3):
        name = Name("web", str(number), ".tar.gz")
        assert store.put(name, path, details(path))
        with pytest.raises(AssetTaken):
            store.put(name, path, details(b"other"))
    assert len([text for text in bus.texts if "ignores conditions" in text]) == 1


def test_one_call_for_each_asset(s3: Place, tmp_path: Path) -> None:
    own = s3.sub("calls")
    uploads = [
        Upload(Name("web", str(number), ".tar.gz"), tarball(tmp_path / f"{number}.tar.gz"))
        for number in range(30)
    ]
    with faulty(s3.endpoint, share=0) as proxy:
        push(own.writer(endpoint=proxy.url), uploads, Options())
        assert proxy.seen["calls"] <= 30 + 3, "and a listing, and two to see whether conditions are obeyed"
        proxy.seen["calls"] = 0
        for upload in uploads:
            read(own.reader(endpoint=proxy.url), upload.name)
        assert proxy.seen["calls"] == 30


def test_d04_faults_on_the_way_are_tried_again(s3: Place, tmp_path: Path) -> None:
    own = s3.sub("faults")
    uploads = []
    for number in range(60):
        path = tmp_path / f"{number}.tar.gz"
        tarball(path, ("data", random.Random(number).randbytes(300_000 if number % 5 == 0 else 3000)))
        uploads.append(Upload(Name("web", str(number), ".tar.gz"), path))
    with faulty(s3.endpoint, share=0.15) as proxy:
        done = push(own.writer(endpoint=proxy.url), uploads, Options())
        assert [row.error for row in done] == [None] * 60
        assert all(row.stored for row in done), "also those whose first response was lost"
        store = own.reader(endpoint=proxy.url)
        for upload in uploads:
            assert read(store, upload.name) == (upload.path.read_bytes(), details(upload.path))
        assert min(count for fault, count in proxy.seen.items() if fault != "calls") > 0


def test_a_broken_download_goes_on_where_it_stopped(s3: Place, tmp_path: Path) -> None:
    own, path = s3.sub("resumed"), tmp_path / "big"
    path.write_bytes(BIG_DATA)
    own.writer().put(BIG, path, details(path))
    with faulty(s3.endpoint, share=0.7, seed=3) as proxy:
        data, _ = read(own.reader(endpoint=proxy.url), BIG, 1 << 18)
        assert data == BIG_DATA
        assert proxy.seen["short body"] > 0, "else nothing was resumed"


def test_an_asset_that_is_replaced_while_it_is_read(s3: Place, tmp_path: Path) -> None:
    """No reader gets the beginning of one and the end of another."""
    own, path = s3.sub("replaced"), tmp_path / "big"
    path.write_bytes(BIG_DATA)
    store = own.writer()
    store.put(BIG, path, details(path))
    with store.open(BIG) as incoming:
        incoming.read(1 << 20)
        path.write_bytes(BIG_DATA[::-1])
        own.writer().put(BIG, path, details(path), replace=True)
        incoming.close()  # type: ignore[attr-defined]  # as a connection that breaks
        with pytest.raises(StoreError, match="was replaced while it was read") as caught:
            incoming.read()
    assert caught.value.retryable
