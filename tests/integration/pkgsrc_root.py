"""A root with pkgsrc's tools on a busybox userland, and real binary packages to put into it."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from buildstep.system import process

FIXTURES = Path(__file__).parents[2] / "fixtures/pkgsrc"

DATABASES = {"/opt/local": "/opt/local/pkg", "/usr/pkg": "/usr/pkg/pkgdb"}

PLATFORMS = {
    "/opt/local": {"OPSYS": "SunOS", "MACHINE_ARCH": "x86_64", "OS_VERSION": "5.11"},
    "/usr/pkg": {"OPSYS": "NetBSD", "MACHINE_ARCH": "x86_64", "OS_VERSION": "10.0"},
}
"""What the tools of a root are made for, and what packages are made for where a test says nothing else."""

SHOWN = "/repository"
"""Where the tools find the repository, inside the root."""

APPLETS = """
sh awk sed grep tar gzip gunzip md5sum cp mv rm mkdir rmdir ls cat sort head tail mktemp basename dirname
chmod chown chgrp wc tr cut find echo printf env id true false wget ln touch sleep setsid hostname od readlink date
"""


def make_root(top: Path, prefix: str) -> Path:
    """A root whose package tools are below `prefix`, set to the repository at SHOWN."""
    for folder in ("bin", "etc", "var/db", "root", f"{prefix}/bin", f"{prefix}/sbin", f"{prefix}/libexec"):
        (top / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
    busybox = top / "bin/busybox"
    busybox.write_bytes(Path(process.which("busybox")).read_bytes())
    busybox.chmod(0o755)
    for name in APPLETS.split():
        (top / "bin" / name).symlink_to("busybox")
    base = top / prefix.lstrip("/")
    for source in FIXTURES.iterdir():
        if source.suffix == ".md":
            continue
        folder = {".sh": "libexec", "": "bin" if source.name == "pkgin" else "sbin"}[source.suffix]
        text = source.read_text()
        for name, value in {"PREFIX": prefix, **PLATFORMS[prefix]}.items():
            text = text.replace(f"@{name}@", value)
        file = base / folder / source.name
        file.write_text(text)
        file.chmod(0o755)
    (base / "etc/pkgin").mkdir(parents=True)
    (base / "etc/pkgin/repositories.conf").write_text(f"# the fixture's\nfile://{SHOWN}\n")
    (base / "etc/pkg_install.conf").write_text(
        f"PKG_DBDIR={DATABASES[prefix]}\nPKG_PATH={SHOWN}\nPKGVULNURL=file://{SHOWN}/pkg-vulnerabilities\n"
    )
    (top / DATABASES[prefix].lstrip("/")).mkdir(parents=True)
    return top


RECORDS = (
    "+CONTENTS", "+COMMENT", "+DESC", "+INSTALL", "+DEINSTALL", "+DISPLAY", "+BUILD_VERSION", "+BUILD_INFO", "+SIZE_PKG",
    "+SIZE_ALL", "+PRESERVE",
)  # fmt: skip
"""The order in which a package has its records; pkg_add refuses another one."""


def record_of(package: Path, name: str) -> str:
    """A record of a package's file."""
    with tarfile.open(package) as archive:
        record = archive.extractfile(name)
        assert record is not None
        return record.read().decode()


def _put(archive: tarfile.TarFile, path: str, text: str, mode: int) -> None:
    info = tarfile.TarInfo(path)
    info.mode = mode
    if text.startswith("-> "):
        info.type, info.linkname = tarfile.SYMTYPE, text.removeprefix("-> ")
        archive.addfile(info)
    else:
        info.size = len(text.encode())
        archive.addfile(info, io.BytesIO(text.encode()))


@dataclass(frozen=True)
class Repository:
    """A folder of binary packages, as `pkg_add` and `pkgin` read it."""

    path: Path
    prefix: str

    def add(
        self,
        name: str,
        version: str,
        *,
        files: Mapping[str, str] | None = None,
        depends: Sequence[str] = (),
        install: str = "",
        plist: Sequence[str] = (),
        build: Mapping[str, str] = MappingProxyType({}),
        records: Mapping[str, str] = MappingProxyType({}),
    ) -> Path:
        """Make NAME-VERSION.tgz, as pkg_create(1) does.

        files: content by path below the prefix; one that begins with `-> ` is a link's target. install: a +INSTALL
        script. plist: commands of the packing list, `{PATH}` standing for a file and its checksum; files that it does
        not name come last. build: variables of +BUILD_INFO instead of the usual ones, without a value none.
        records: further + files.
        """
        full = f"{name}-{version}"
        files = dict(files if files is not None else {f"bin/{name}": f"#!/bin/sh\necho {full}\n"})
        rows = ["@comment PKG_FORMAT_REVISION:1.1", f"@name {full}", f"@comment ORIGIN:misc/{name}"]
        rows += [f"@cwd {self.prefix}"]
        for dependency in depends:
            rows += [f"@blddep {dependency}", f"@pkgdep {dependency}"]
        rest = [f"{{{path}}}" for path in files if f"{{{path}}}" not in plist]
        order = []
        for row in (*plist, *rest):
            if not row.startswith("{"):
                rows += [row]
                continue
            path = row[1:-1]
            order.append(path)
            link = files[path].removeprefix("-> ") if files[path].startswith("-> ") else ""
            digest = hashlib.md5(files[path].encode()).hexdigest()
            rows += [path, f"@comment Symlink:{link}" if link else f"@comment MD5:{digest}"]
        size = sum(len(text.encode()) for text in files.values())
        built = {
            **PLATFORMS[self.prefix], "LICENSE": "mit", "PKGPATH": f"misc/{name}",
            "PKGTOOLS_VERSION": "20250417", **build,
        }  # fmt: skip
        given = {
            "+CONTENTS": "\n".join(rows) + "\n",
            "+COMMENT": f"The {name} of the tests\n",
            "+DESC": f"{name} is there for tests.\n",
            "+BUILD_INFO": "".join(f"{key}={value}\n" for key, value in built.items() if value),
            "+SIZE_PKG": f"{size}\n",
            "+SIZE_ALL": f"{size + sum(map(self._size_all, depends))}\n",
            **({"+INSTALL": install} if install else {}),
            **records,
        }
        target = self.path / f"{full}.tgz"
        with tarfile.open(target, "w:gz") as archive:
            for record in sorted(given, key=RECORDS.index):
                _put(archive, record, given[record], 0o644)
            for path in order:
                _put(archive, path, files[path], 0o755)
        return target

    def _size_all(self, pattern: str) -> int:
        """What a package that fits has in +SIZE_ALL."""
        name = re.split("[<>=*\\[]", pattern)[0].rstrip("-")
        found = sorted(self.path.glob(f"{name}-[0-9]*.tgz"))
        return int(record_of(found[-1], "+SIZE_ALL")) if found else 0

    def publish(self) -> None:
        """Write pkg_summary.gz over the packages that are there."""
        records = []
        for file in sorted(self.path.glob("*.tgz")):
            plist = record_of(file, "+CONTENTS").splitlines()
            rows = [f"PKGNAME={file.stem}"]
            rows += [f"DEPENDS={row[8:]}" for row in plist if row.startswith("@pkgdep ")]
            rows += [f"COMMENT={record_of(file, '+COMMENT').strip()}"]
            rows += [f"SIZE_PKG={record_of(file, '+SIZE_PKG').strip()}"]
            rows += record_of(file, "+BUILD_INFO").splitlines()
            rows += [f"FILE_NAME={file.name}", f"FILE_SIZE={file.stat().st_size}"]
            records.append("\n".join(rows))
        (self.path / "pkg_summary.gz").write_bytes(gzip.compress(("\n\n".join(records) + "\n").encode()))

    def vulnerable(self, pattern: str, kind: str, url: str) -> None:
        """Add a line to the list of vulnerabilities."""
        file = self.path / "pkg-vulnerabilities"
        if not file.exists():
            file.write_text("#FORMAT 1.0.0\n# pattern kind url\n")
        with file.open("a") as stream:
            stream.write(f"{pattern}\t{kind}\t{url}\n")


def make_repository(path: Path, prefix: str) -> Repository:
    """A repository with a web server and what it needs, a package that fails, and one to upgrade."""
    path.mkdir()
    repository = Repository(path, prefix)
    repository.add("zlib", "1.3.1", files={"lib/libz.so": "z"})
    repository.add("pcre2", "10.44nb1", files={"lib/libpcre2.so": "p"})
    repository.add("nginx", "1.26.2", depends=["zlib>=1.2", "pcre2>=10.40<11"])
    repository.add("nginx", "1.24.0", depends=["zlib>=1.2"])
    repository.add("needy", "1.0", depends=["no-such-thing>=1"])
    repository.add(
        "broken",
        "1.0",
        install="#!/bin/sh\n[ $2 = PRE-INSTALL ] && { echo cannot go on >&2; exit 7; }\nexit 0\n",
    )
    repository.add(
        "daemon", "2.0",
        install="#!/bin/sh\nif [ $2 = POST-INSTALL ]; then env > /probe.env; setsid sleep 87654 >/dev/null 2>&1 & fi\nexit 0\n",
    )  # fmt: skip
    repository.vulnerable("zlib<1.4", "denial-of-service", "https://nvd.nist.gov/vuln/detail/CVE-0000-0001")
    repository.vulnerable(
        "other-[0-9]*", "remote-code-execution", "https://nvd.nist.gov/vuln/detail/CVE-0000-0002"
    )
    repository.publish()
    return repository


def files_of(root: Path) -> set[str]:
    """Every path in a root."""
    return {os.path.relpath(os.path.join(d, n), root) for d, ds, fs in os.walk(root) for n in (*ds, *fs)}
