"""Why a file differs is told by what differs in it."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import time
import zipfile

import pytest

from buildstep.build.proving import causes
from buildstep.build.proving.variations import AHEAD
from buildstep.build.proving.world import World

NOW = 1_790_000_000.0

WORLDS = (
    World(
        markers={
            "host name": ("buildstep",), "processors": ("2", "-j2"), "build path": ("/w/proto",),
            "kernel": ("6.1.0-1-amd64",), "locale": ("C.UTF-8", "C"), "time zone": ("UTC", "+0000", "Z"),
        },
        unmistakable=(),
        times=((NOW, NOW + 20),),
    ),
    World(
        markers={
            "host name": ("other",), "processors": ("1", "-j1"), "build path": ("/x/another",),
            "kernel": ("9.9",), "locale": ("POSIX",), "time zone": ("PRV", "+1345"),
        },
        unmistakable=(("build path", "/x/another"), ("time zone", "PRV-13:45")),
        times=((NOW + 30, NOW + 50), (NOW + 30 + AHEAD, NOW + 50 + AHEAD)),
    ),
)  # fmt: skip
FIRST, SECOND = NOW + 3, NOW + 35 + AHEAD


def told(first: bytes | str, second: bytes | str, path: str = "srv/file") -> str:
    both = [data.encode() if isinstance(data, str) else data for data in (first, second)]
    return causes.explain(path, both[0], both[1], WORLDS).kind


@pytest.mark.parametrize(
    "form",
    ["%s", "%Y-%m-%d %H:%M:%S", "%Y%m%d", "%a %b %e %H:%M:%S UTC %Y", "built on %d %B %Y", "%Y-%m-%dT%H:%M:%SZ",
     "%a, %d %b %Y %H:%M:%S +0000", "version=1.0.%Y%m%d%H%M%S", "(c) %Y"],
)  # fmt: skip
def test_a_time_in_any_form_is_one(form: str) -> None:
    texts = []
    for moment in (FIRST, SECOND):
        text = form.replace("%s", str(int(moment)))
        texts.append(f"about\n{time.strftime(text, time.gmtime(moment))}\nend\n")
    assert told(texts[0], texts[1]) == "time stamp"


def test_times_of_finer_clocks_and_in_bytes() -> None:
    assert told(f"{int(FIRST * 1000)}", f"{int(SECOND * 1000)}") == "time stamp"
    for form in ("<I", ">I", "<Q"):
        rows = [b"\x00head" + struct.pack(form, int(moment)) + b"\x01\xfftail" for moment in (FIRST, SECOND)]
        assert told(rows[0], rows[1]) == "time stamp"


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ("made on buildstep\n", "made on other\n", "host name"),
        ("run with -j2\n", "run with -j1\n", "processors"),
        ("2\n", "1\n", "processors"),
        ("src=/w/proto/a.c", "src=/x/another/a.c", "build path"),
        ("linux 6.1.0-1-amd64", "linux 9.9", "kernel"),
        ("zone \n", "zone PRV-13:45\n", "time zone"),
        ("b\na\nc\n", "c\nb\na\n", "order"),
        ("x: b a c\n", "x: c b a\n", "order"),
        ("id 0b6f1e52-93a1-4a6b-8a3f-0d5c5e2f7a11", "id 5e1d6c2a-1f7b-4f0e-9c1d-7b8a9e0f1c2d", "random"),
        ("seed=8f14e45fceea167a\n", "seed=c9f0f895fb98ab91\n", "random"),
        ("pid 123\n", "pid 4567\n", "random"),
        ("one word\n", "quite other words\n", "unknown"),
    ],
)
def test_texts(first: str, second: str, kind: str) -> None:
    assert told(first, second) == kind


def test_keys_and_bytes_without_a_pattern() -> None:
    one, two = random.Random(1).randbytes(400), random.Random(2).randbytes(400)
    assert told(one, two) == "random"
    head = "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    assert told(f"{head}b3Blbn\n", f"{head}c4Cmco\n") == "key"
    assert told("a", "b", "etc/ssh/ssh_host_rsa_key") == "key"


def test_known_paths_name_their_cleaner() -> None:
    found = causes.explain("etc/machine-id", b"a", b"b", WORLDS)
    assert (found.kind, found.fix) == ("random", "the cleaner machine-id")
    assert told("x", "y", "usr/lib/python3/a.pyc") == "byte code"
    assert told("x", "y", "var/cache/ldconfig/aux-cache") == "cache file"
    assert told("x", "y", "var/log/install.log") == "log"


def test_accounts_by_their_numbers() -> None:
    one, two = "a:x:100:\nb:x:101:\n", "a:x:101:\nb:x:100:\n"
    assert told(one, two, "etc/group") == "account order"
    assert told("a:x:1:\nb:x:2:\n", "b:x:2:\na:x:1:\n", "etc/group") == "account order"
    days = [int(moment // 86400) for moment in (FIRST, SECOND)]
    assert told(f"a:!:{days[0]}::::::\n", f"a:!:{days[1]}::::::\n", "etc/shadow") == "time stamp"


def archive(kind: str, moment: float, text: bytes = b"same", names: tuple[str, ...] = ("a", "b")) -> bytes:
    into = io.BytesIO()
    if kind == "gzip":
        return gzip.compress(text, mtime=int(moment))
    if kind == "ar":
        head = b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (b"a/", int(moment), 0, 0, b"100644", len(text))
        return b"!<arch>\n" + head + text
    if kind == "tar":
        with tarfile.open(fileobj=into, mode="w") as tar:
            for name in names:
                info = tarfile.TarInfo(name)
                info.mtime, info.size = int(moment), len(text)
                tar.addfile(info, io.BytesIO(text))
    else:
        with zipfile.ZipFile(into, "w") as made:
            for name in names:
                made.writestr(zipfile.ZipInfo(name, time.gmtime(moment)[:6]), text)
    return into.getvalue()


@pytest.mark.parametrize("kind", ["gzip", "ar", "tar", "zip"])
def test_archives(kind: str) -> None:
    found = causes.explain("srv/x", archive(kind, FIRST), archive(kind, SECOND), WORLDS)
    assert (found.kind, kind in found.seen) == ("archive metadata", True)
    assert found.fix
    inner = causes.explain(
        "srv/x", archive(kind, 1e9, b"on buildstep"), archive(kind, 1e9, b"on other"), WORLDS
    )
    assert inner.kind == "host name"
    if kind in ("tar", "zip"):
        rows = [archive(kind, 1e9, names=names) for names in (("a", "b"), ("b", "a"))]
        assert told(rows[0], rows[1]) == "directory order"


def test_an_archive_in_an_archive_and_a_damaged_one() -> None:
    rows = [gzip.compress(archive("tar", moment), mtime=0) for moment in (FIRST, SECOND)]
    found = causes.explain("srv/x.tar.gz", rows[0], rows[1], WORLDS)
    assert found.kind == "archive metadata"
    assert told(rows[0][:40], rows[1][:40]) in ("unknown", "random")


def test_what_is_random_is_not_shown() -> None:
    found = causes.explain("srv/x", b"token=8f14e45fceea167a", b"token=c9f0f895fb98ab91", WORLDS)
    assert "8f14" not in found.seen + found.fix


def test_a_name_that_follows_from_a_certificate() -> None:
    found = causes.by_path("etc/ssl/certs/000478b8.0")
    assert found is not None
    assert found.kind == "key"
    assert causes.by_path("srv/file") is None
