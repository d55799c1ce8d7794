"""A root with pkgsrc's tools on a busybox userland, and real binary packages to put into it."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildstep.system import process

FIXTURES = Path(__file__).parents[2] / "fixtures/pkgsrc"

DATABASES = {"/opt/local": "/opt/local/pkg", "/usr/pkg": "/usr/pkg/pkgdb"}

SHOWN = "/repository"
"""Where the tools find the repository, inside the root."""

APPLETS = """
sh awk sed grep tar gzip gunzip md5sum cp mv rm mkdir rmdir ls cat sort head tail mktemp basename dirname
chmod chown wc tr cut find echo printf env id true false wget ln touch sleep setsid hostname
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
    for name, folder in {
        "pkg_add": "sbin",
        "pkg_info": "sbin",
        "pkg_admin": "sbin",
        "pkgin": "bin",
        "pkgtools.sh": "libexec",
    }.items():
        file = base / folder / name
        file.write_text((FIXTURES / name).read_text().replace("@PREFIX@", prefix))
        file.chmod(0o755)
    (base / "etc/pkgin").mkdir(parents=True)
    (base / "etc/pkgin/repositories.conf").write_text(f"# the fixture's\nfile://{SHOWN}\n")
    (base / "etc/pkg_install.conf").write_text(
        f"PKG_DBDIR={DATABASES[prefix]}\nPKG_PATH={SHOWN}\nPKGVULNURL=file://{SHOWN}/pkg-vulnerabilities\n"
    )
    (top / DATABASES[prefix].lstrip("/")).mkdir(parents=True)
    return top


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
    ) -> Path:
        """Make NAME-VERSION.tgz. files: content by path below the prefix; install: a +INSTALL script."""
        full = f"{name}-{version}"
        content = {
            path: text.encode()
            for path, text in (files or {f"bin/{name}": f"#!/bin/sh\necho {full}\n"}).items()
        }
        plist = ["@comment PKG_FORMAT_REVISION:1.1", f"@name {full}", f"@comment ORIGIN:misc/{name}"]
        plist += [f"@cwd {self.prefix}"]
        for dependency in depends:
            plist += [f"@blddep {dependency}", f"@pkgdep {dependency}"]
        for path, data in content.items():
            plist += [path, f"@comment MD5:{hashlib.md5(data).hexdigest()}"]
        meta = {
            "+CONTENTS": "\n".join(plist) + "\n",
            "+COMMENT": f"The {name} of the tests\n",
            "+DESC": f"{name} is there for tests.\n",
            "+BUILD_INFO": f"OPSYS=SunOS\nMACHINE_ARCH=x86_64\nLICENSE=mit\nPKGPATH=misc/{name}\n",
        } | ({"+INSTALL": install} if install else {})
        target = self.path / f"{full}.tgz"
        with tarfile.open(target, "w:gz") as archive:
            for path, data in {**{key: text.encode() for key, text in meta.items()}, **content}.items():
                info = tarfile.TarInfo(path)
                info.size, info.mode = len(data), 0o644 if path.startswith("+") else 0o755
                archive.addfile(info, io.BytesIO(data))
        return target

    def publish(self) -> None:
        """Write pkg_summary.gz over the packages that are there."""
        records = []
        for file in sorted(self.path.glob("*.tgz")):
            with tarfile.open(file) as archive:
                comment = archive.extractfile("+COMMENT")
                plist = archive.extractfile("+CONTENTS")
                assert comment is not None
                assert plist is not None
                depends = [
                    row[8:] for row in plist.read().decode().splitlines() if row.startswith("@pkgdep ")
                ]
                rows = [f"PKGNAME={file.stem}", f"COMMENT={comment.read().decode().strip()}"]
            rows += [f"DEPENDS={pattern}" for pattern in depends]
            rows += [f"SIZE_PKG={file.stat().st_size}", f"FILE_NAME={file.name}"]
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
