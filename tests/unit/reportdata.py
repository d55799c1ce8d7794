"""Builds to report on: a record as the pipeline writes it, and an event log of any length."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from buildstep.events import (
    ArtifactWritten,
    BuildFinished,
    BuildStarted,
    Cleaned,
    Counted,
    Event,
    Note,
    Output,
    StepFinished,
    StepStarted,
)
from buildstep.report.event_log import EventLog

BEGIN = 1_795_247_808.0
NASTY = (
    "</script><script>alert('no')</script> <img src=x onerror=alert(1)> & \"quoted\" \x1b[31mred\x1b[0m \x07"
)

STEPS: tuple[tuple[str, str, str, float, str], ...] = (
    (
        "import",
        "reuse",
        "mmdebstrap:bookworm is in the store as 67194dc2-e325-4bd1-b867-6ed6b37e274e",
        0.0,
        "",
    ),
    ("clone", "run", "image 67194dc2-e325-4bd1-b867-6ed6b37e274e", 0.0013, ""),
    (
        "packages",
        "run",
        "115 packages in the image; packages differ: + libnginx-mod-http-echo",
        8.1522,
        "8957adb115326dee02fb731f7168dd27e63daaba",
    ),
    (
        "sync",
        "run",
        "proto/, 214 files, read in place; 3 to read: srv/www/index.html (size) and 2 more",
        0.412,
        "",
    ),
    ("clean", "run", "18 paths, 1403877 bytes removed", 0.5593, ""),
    ("motd", "skip", "not asked for", 0.0, ""),
    ("snapshot", "run", "9216 paths, 412 new or changed, 0 removed", 0.2384, ""),
    ("emit", "run", "hello-1.4.2.oci.tar", 2.1183, ""),
    ("destroy", "run", "", 0.0133, ""),
)

PACKAGES = (  # noqa: SIM905 - one word a package
    "adduser apt base-files base-passwd bash bsdutils coreutils dash debconf debian-archive-keyring debianutils "
    "diffutils dpkg e2fsprogs findutils gcc-12-base gpgv grep gzip hostname init-system-helpers libacl1 "
    "libapt-pkg6.0 libattr1 libaudit-common libaudit1 libblkid1 libbz2-1.0 libc-bin libc6 libcap-ng0 libcap2 "
    "libcom-err2 libcrypt1 libdb5.3 libdebconfclient0 libffi8 libgcc-s1 libgcrypt20 libgmp10 libgnutls30 "
    "libnginx-mod-http-echo liblz4-1 liblzma5 libmd0 libmount1 libpam-modules libpcre2-8-0 libselinux1 "
    "libssl3 libstdc++6 libsystemd0 libudev1 libzstd1 login mawk mount ncurses-base nginx-common nginx-light "
    "passwd perl-base sed sysvinit-utils tar tzdata usr-is-merged util-linux zlib1g"
).split()


def record(**changes: Any) -> dict[str, Any]:
    """A good build's record; `changes` replace its fields."""
    steps, clock = [], BEGIN
    for name, state, reason, seconds, key in STEPS:
        steps.append(
            {"name": name, "state": state, "reason": reason, "seconds": seconds, "started": clock, "key": key}
        )
        clock += seconds + 0.002
    files = [
        ("/usr/bin/perl", 3_790_000), ("/usr/lib/x86_64-linux-gnu/libcrypto.so.3", 4_709_000),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", 1_922_000), ("/usr/sbin/nginx", 1_250_000),
        ("/usr/lib/x86_64-linux-gnu/libssl.so.3", 693_000), ("/usr/share/GeoIP/GeoIP.dat", 1_530_000),
        ("/usr/lib/x86_64-linux-gnu/libicudata.so.72", 2_380_000), ("/srv/www/assets/hero.webp", 812_000),
        ("/srv/www/assets/app.js", 431_000), ("/srv/www/assets/vendor.js", 1_204_000), ("/srv/www/index.html", 18_200),
        *((f"/srv/www/media/{number:03}.webp", 240_000 - number * 2_900) for number in range(60)),
        *((f"/usr/share/locale/{name}/LC_MESSAGES/nginx.mo", 52_000) for name in ("de", "fr", "ja", "pl", "pt", "uk")),
        *((f"/usr/lib/nginx/modules/ngx_http_mod{number}.so", 90_000 + number * 7_000) for number in range(9)),
        *((f"/var/lib/dpkg/info/package{number}.list", 22_000 - number * 300) for number in range(40)),
        ("/etc/nginx/nginx.conf", 1_447), ("/etc/mime.types", 72_000),
    ]  # fmt: skip
    value: dict[str, Any] = {
        "format": 1,
        "build_id": "20261121T075648-5c6aae69",
        "name": "hello",
        "version": "1.4.2",
        "uuid": "ee5bff1c-05dd-4dec-a971-18ccbc9579c8",
        "started": "2026-11-21T07:56:48.048Z",
        "seconds": round(clock - BEGIN + 0.31, 3),
        "ok": True,
        "exit_code": 0,
        "error": None,
        "inputs": {
            "image": {
                "uuid": "67194dc2-e325-4bd1-b867-6ed6b37e274e",
                "label": "mmdebstrap:bookworm",
                "name": "debian-bookworm-minbase",
                "version": "0",
                "tree_digest": "92d21833c7f73db0fb0484d96bd7e524306710913b87ea5b7b97d85b1d0a8bb0",
            },
            "proto": {"path": "/src/hello/proto", "files": 214, "bytes": 17_400_123},
            "manifest": {"name": "hello", "version": "1.4.2", "os": "linux", "tags": {"role": "web"}},
            "spec": {"source": "hello/m.json", "installer": "apt", "source_date_epoch": None},
            "pool": "overlay:/var/lib/buildstep",
        },
        "steps": steps,
        "packages": [
            {"name": name, "version": f"1.{number}.{number % 7}-{number % 4 + 1}+deb12u{number % 3}", "arch": "amd64",
             "source": name if number % 3 else "", "license": ""}
            for number, name in enumerate(PACKAGES)
        ],
        "audit": {
            "text": "2 packages\n",
            "findings": [
                {"package": "libssl3", "version": "3.0.14-1", "problem": "CVE-2026-1234: read past the end of a buffer",
                 "url": "https://security-tracker.debian.org/tracker/CVE-2026-1234", "severity": "high"},
                {"package": "perl-base", "version": "5.36.0-7", "problem": "CVE-2026-2345: a crafted pattern uses much time",
                 "url": "https://security-tracker.debian.org/tracker/CVE-2026-2345", "severity": "low"},
            ],
        },
        "commands": [
            {"command": "ldconfig", "status": 0, "seconds": 0.031, "name": ""},
            {"command": "set -u ...", "status": 0, "seconds": 1.207, "name": ""},
        ],
        "checks": [
            {"check": "setuid", "group": "rule", "result": "passed", "seconds": 0.002, "message": "", "lines": []},
            {"check": "unknown-owner", "group": "rule", "result": "warned", "seconds": 0.001,
             "message": "/srv/a belongs to uid 7", "lines": ["/srv/a belongs to uid 7"]},
        ],
        "cleaned": [
            {"cleaner": "package-cache", "paths": 9, "bytes": 1_374_714, "names": ["/var/cache/apt/archives/lock"]},
            {"cleaner": "logs", "paths": 4, "bytes": 17_462, "names": ["/var/log/apt/history.log", "/var/log/dpkg.log"]},
            {"cleaner": "tmp", "paths": 0, "bytes": 0, "names": []},
        ],
        "entropy": ["/var/cache/ldconfig/aux-cache: inode numbers and times"],
        "layers": [
            {"digest": "a3" * 32, "diff_id": "b4" * 32, "size": 41_203_811, "comment": "base mmdebstrap:bookworm",
             "created_by": "buildstep image import mmdebstrap:bookworm", "base": True, "files": 4112, "bytes": 99_000_000,
             "removed": 0, "packages": ["apt 2.6.1", "dpkg 1.21.22"]},
            {"digest": "c5" * 32, "diff_id": "d6" * 32, "size": 14_877_200, "comment": "packages nginx-light",
             "created_by": "buildstep", "base": False, "files": 61, "bytes": 31_000_000, "removed": 2,
             "packages": ["nginx-light 1.22.1-9"]},
            {"digest": "e7" * 32, "diff_id": "f8" * 32, "size": 9_120_455, "comment": "proto",
             "created_by": "buildstep", "base": False, "files": None, "bytes": None, "removed": None, "packages": []},
        ],
        "artifacts": [
            {"path": "/src/hello/bits/hello-1.4.2.oci.tar", "format": "oci", "size": 65_207_296,
             "sha1": "0d" * 20, "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
             "compression": "zstd"},
        ],
        "files_added": sorted(([path, size] for path, size in files), key=lambda row: -int(row[1])),
        "tree_digest": "1f40fc92da241694750979ee6cf582f2d5d7d28e18335de05abc54d0560e0f53",
        "counts": {"bytes_hashed": 17_400_123, "files_read": 3},
        "notes": [{"level": "warning", "text": "the clock of the mirror is 4 s behind", "step": "packages"}],
        "tools": {"buildstep": "1.0.0", "python": "3.11.7", "codec zstd": "zstd 1.5.5"},
    }  # fmt: skip
    return value | changes


def failed(**changes: Any) -> dict[str, Any]:
    """A build that failed while it installed packages."""
    value = record()
    steps = value["steps"][:3]
    steps[2] |= {"state": "failed", "reason": "apt-get exited with status 100"}
    error = {
        "message": "installing packages: apt-get exited with status 100",
        "detail": "E: Unable to locate package nginx-lite",
        "hint": "is the name right? nginx-light is one that the repository has",
    }
    none: dict[str, Any] = {
        key: []
        for key in (
            "packages",
            "layers",
            "artifacts",
            "files_added",
            "commands",
            "checks",
            "cleaned",
            "entropy",
        )
    }
    base = (
        value
        | none
        | {"ok": False, "exit_code": 12, "error": error, "steps": steps, "audit": None, "tree_digest": ""}
    )
    return base | changes


def write(path: Path, value: dict[str, Any]) -> Path:
    path.write_text(json.dumps(value))
    return path


def events(lines: int, value: dict[str, Any] | None = None) -> Iterator[Event]:
    """The events of a build with this many lines of output."""
    value = value or record()
    clock = BEGIN
    share = {step["name"]: 0.9 if step["name"] == "packages" else 0.0125 for step in value["steps"]}
    yield BuildStarted(
        time=clock, build_id=value["build_id"], name=value["name"], version=value["version"],
        image="mmdebstrap:bookworm", total_steps=len(value["steps"]),
    )  # fmt: skip
    for index, step in enumerate(value["steps"], 1):
        name = step["name"]
        yield StepStarted(
            time=step["started"], step=name, index=index, total=len(value["steps"]), title=f"{name} it"
        )
        count = int(lines * share[name])
        for number in range(count):
            clock = step["started"] + step["seconds"] * number / max(1, count)
            tool = "apt-get" if name == "packages" else "rsync"
            if name == "packages" and number == 7:
                yield Output(time=clock, step=name, tool=tool, text=NASTY)
            else:
                package = PACKAGES[number % len(PACKAGES)]
                yield Output(time=clock, step=name, tool=tool, text=_line(number, package))
        if name == "packages":
            yield Note(time=clock, step=name, level="warning", text="the clock of the mirror is 4 s behind")
        if name == "clean":
            yield Cleaned(
                time=clock, step=name, cleaner="logs", paths=4, bytes=17_462, names=("/var/log/dpkg.log",)
            )
        ended = step["started"] + step["seconds"]
        yield StepFinished(
            time=ended, step=name, state=step["state"], seconds=step["seconds"], reason=step["reason"]
        )
        clock = ended
    for artifact in value["artifacts"]:
        told = {key: artifact[key] for key in ("path", "format", "size", "sha256")}
        yield ArtifactWritten(time=clock, step="emit", **told)
    yield Counted(time=clock, name="files_read", amount=3)
    error = value["error"] or {"message": ""}
    yield BuildFinished(
        time=clock,
        ok=value["ok"],
        exit_code=value["exit_code"],
        seconds=value["seconds"],
        message=error["message"],
    )


def _line(number: int, package: str) -> str:
    match number % 4:
        case 0:
            return f"Get:{number} http://deb.debian.org/debian bookworm/main amd64 {package} amd64 1.{number % 9}-1 [{number % 900} kB]"
        case 1:
            return f"Selecting previously unselected package {package}."
        case 2:
            return f"Preparing to unpack .../{number:05}-{package}_1.{number % 9}-1_amd64.deb ..."
        case _:
            return f"Setting up {package} (1.{number % 9}-1) ..."


def write_events(path: Path, lines: int, value: dict[str, Any] | None = None) -> Path:
    with path.open("wb") as stream:
        log = EventLog(stream)
        for event in events(lines, value):
            log(event)
        log.flush()
    return path


def trend(folder: Path, count: int = 12) -> list[Path]:
    """Records of several builds, a day apart, one of them failed."""
    paths = []
    for number in range(count):
        day = f"2026-11-{21 - count + number + 1:02}"
        size = 58_000_000 + number * 640_000 + (3_200_000 if number % 4 == 3 else 0)
        seconds = 12.5 + (31 if number == 2 else 0) + (number * 7 % 5) * 0.8
        value = record(
            version=f"1.4.{number - count + 3}" if number >= count - 3 else f"1.3.{number}",
            build_id=f"2026112{number:02}-{number:08x}",
            started=f"{day}T07:56:48.048Z",
        )
        if number < count - 1:
            value["seconds"] = seconds
            value["artifacts"][0]["size"] = size
            value["packages"] = [row for row in value["packages"] if row["name"] != "libnginx-mod-http-echo"]
            value["packages"][9]["version"] = "0.9-1"
        if number == 5:
            value = failed(
                build_id=value["build_id"], version=value["version"], started=value["started"], seconds=3.4
            )
        paths.append(write(folder / f"hello-{number:02}.buildrecord.json", value))
    return paths


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def trust(*found: dict[str, Any], fail: str = "high") -> dict[str, Any]:
    """What a record says of the proofs of its image."""
    return {
        "files": [
            {"name": "hello-1.4.2.spdx.json", "size": 20_480, "sha256": "5" * 64},
            {"name": "hello-1.4.2.intoto.jsonl", "size": 4_096, "sha256": "6" * 64},
        ],
        "sbom": ["spdx"],
        "provenance": "min",
        "keys": ["SHA256:Zm9vYmFy"],
        "builder": "urn:buildstep:builder",
        "vulnerabilities": {
            "fail": fail,
            "found": list(found),
            "databases": [{"name": "debian-tracker", "sha256": "7" * 64, "updated": BEGIN}],
            "uncovered": {},
        },
    }


def vulnerability(ident: str, **more: Any) -> dict[str, Any]:
    """A row of what was found."""
    return {
        "id": ident, "package": "openssl", "kind": "deb", "installed": "3.0.13-1", "fixed": "3.0.14-1",
        "severity": "high", "score": "7.5", "state": "fixed", "summary": "a & b", "counts": True,
        "url": f"https://security-tracker.debian.org/tracker/{ident}",
    } | more  # fmt: skip
