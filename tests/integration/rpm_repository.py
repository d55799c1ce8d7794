"""A repository of RPM packages of our own on a port of this machine, and a base image with Debian's dnf."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from buildstep.system import process
from buildstep.system.digest import sha256_bytes
from tests.integration.conftest import SUITE, kept_root
from tests.integration.repository import Repository, free_port
from tests.integration.yard import Yard

# What no dnf needs: a base of fewer files makes quicker tests.
_LEFT_OUT = (
    "./usr/share/*", "./usr/lib/*/perl*", "./usr/lib/*/gconv", "./usr/lib/file", "./usr/bin/perl*", "./usr/sbin/*",
    "./var/cache/apt", "./var/lib/apt", "./var/lib/dpkg", "./usr/lib/python3.11/lib2to3", "./usr/lib/systemd",
)  # fmt: skip
_CONFIG = """\
[main]
best=False
skip_if_unavailable=True
"""


def make_dnf_place(top: Path) -> Yard:
    """A pool, and a base with dnf and no apt, whose only repository is on the port that is in the file `port`.

    Debian's rpm has its database below the home directory, other distributions' not: it is told to be as these.
    """
    port = free_port()
    root = kept_root(f"{SUITE}-dnf", "--variant=essential", "--include=dnf,rpm")
    files = {
        "etc/yum.repos.d/made.repo": f"[made]\nname=made\nbaseurl=http://127.0.0.1:{port}/\ngpgcheck=0\n",
        "etc/dnf/dnf.conf": _CONFIG,
        "etc/rpm/macros": "%_dbpath /var/lib/rpm\n",
        "var/cache/dnf/of-the-base/old": "old\n",
    }
    for path, text in files.items():
        (top / "own" / path).parent.mkdir(parents=True, exist_ok=True)
        (top / "own" / path).write_text(text)
    base = top / "base.tar"
    left_out = [f"--exclude={path}" for path in (*_LEFT_OUT, "./etc/dnf/dnf.conf")]
    process.run(["tar", "-cf", os.fspath(base), *left_out, "-C", os.fspath(root), "."])
    process.run(
        ["tar", "-rf", os.fspath(base), "-C", os.fspath(top / "own"), *(f"./{path}" for path in files)]
    )
    made = Yard(
        pool=f"overlay:{top / 'pool'}", out=top / "out", proto=top / "proto", base=base, formats=("tar",),
        environ={"BUILDSTEP_NETWORK_ALLOW": f"127.0.0.1:{port}"},
    )  # fmt: skip
    made.proto.mkdir()
    (made.proto / "file").write_text("0\n")
    (top / "port").write_text(str(port))
    return made


class RpmRepository(Repository):
    """A repository of packages made by rpmbuild and listed by createrepo_c, served as long as a block lasts."""

    def __init__(self, folder: Path, port: int, built: Path) -> None:
        """built: where packages are kept, so that each is built once."""
        super().__init__(folder, port)
        self._built = built
        self.rpm("shell", "1", lines="Provides: /bin/sh")

    def rpm(self, name: str, version: str, *, lines: str = "", script: str = "") -> None:
        """Add a package, or replace it by another version; `publish` makes it known. lines: more of its spec
        file; script: of its %post, or another scriptlet where it begins with %."""
        if script and not script.startswith("%"):
            script = f"%post\n{script}"
        text = (
            f"Name: {name}\nVersion: {version}\nRelease: 1\nSummary: {name}\nLicense: MIT\nBuildArch: noarch\n{lines}\n"
            f"%description\n{name}\n%install\nmkdir -p %{{buildroot}}/usr/share/{name}\n"
            f"echo {version} > %{{buildroot}}/usr/share/{name}/made\n{script}\n%files\n/usr/share/{name}\n"
        )
        work = self._built / sha256_bytes(text.encode())[:16]
        if not work.exists():
            work.mkdir(parents=True)
            spec = work / f"{name}.spec"
            spec.write_text(text)
            process.query(["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {work}", os.fspath(spec)])
        for old in self.folder.glob(f"{name}-[0-9]*.rpm"):
            old.unlink()
        (made,) = (work / "RPMS/noarch").iterdir()
        shutil.copy2(made, self.folder)

    def publish(self) -> None:
        process.query(["createrepo_c", "--quiet", os.fspath(self.folder)])
