"""A lab whose pool's file system makes streams, and what other programs say of an image that it built."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildstep import pool
from buildstep.pool.interface import Backend, Kind
from buildstep.spec.imgmanifest import validate
from buildstep.tree.entry import FileList
from tests.integration.pools import command, full
from tests.integration.support import REPOSITORY, Done, Lab, sha1


@dataclass(kw_only=True)
class NativeLab(Lab):
    """place: of the pool, which is not below the lab's folder."""

    place: str

    @property
    def uri(self) -> str:
        return f"{self.scheme}:{self.place}"

    @property
    def backend(self) -> Backend:
        return pool.open_pool(self.uri)

    def leftovers(self) -> list[str]:
        backend = self.backend
        found = [f"build {ident}" for ident in backend.idents(Kind.BUILD)]
        for pattern in ("journal/*", "work/*"):
            found += [os.fspath(path) for path in backend.state.glob(pattern)]
        found += [os.fspath(path) for path in (*backend.state.rglob("*.part"), *self.out.glob(".*"))]
        return sorted(found)

    def from_checkout(self, program: str, *arguments: str) -> Done:
        """bin/build or bin/buildstep as a Makefile calls it, with this Python in place of a `.venv`."""
        venv = self.top / "venv"
        if not venv.exists():
            (venv / "bin").mkdir(parents=True)
            (venv / "bin/python").symlink_to(self.python)
            (venv / ".buildstep-ready").write_text("as it is\n")
        return self.run(
            [os.fspath(REPOSITORY / "bin" / program), *arguments], env={"BUILDSTEP_VENV": os.fspath(venv)}
        )

    def imported(self, *arguments: str) -> dict[str, Any]:
        """`image import` with --json, which has to succeed."""
        done = self.from_checkout("buildstep", "image", "import", "--pool", self.uri, "--json", *arguments)
        assert done.status == 0, done.stderr
        return done.json


def built_by(program: str, lab: NativeLab, *arguments: str) -> dict[str, Any]:
    """What `bin/build` prints, called with a manifest, an output folder, a pool and these arguments."""
    done = lab.from_checkout(
        program, "-m", os.fspath(lab.top / "m.json"), "-o", os.fspath(lab.out), "--pool", lab.uri, "--json",
        *arguments, os.fspath(lab.proto),
    )  # fmt: skip
    assert done.status == 0, done.stderr
    return done.json


def manifest_of(result: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a build. Fails unless the rules find nothing wrong and it is the file's own."""
    found: dict[str, Any] = json.loads(Path(result["manifest"]).read_bytes())
    assert validate(found, limits="emit") == []
    assert validate(found, limits="accept") == []
    image = Path(result["files"][0]["path"])
    entry = found["files"][0]
    assert (entry["size"], entry["sha1"]) == (image.stat().st_size, sha1(image))
    assert found["uuid"] == result["uuid"]
    return found


def by_other_tools(base: Path, proto: Path, packages: list[str], into: Path) -> FileList:
    """Base + proto + packages, made by tar, rsync and chroot alone."""
    into.mkdir()
    command("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", str(base), "-C", str(into))
    command("rsync", "-rlptDHAX", "--chown=root:root", f"{proto}/", f"{into}/")
    if packages:
        argv = ["chroot", str(into), "/opt/local/sbin/pkg_add", "-U", *packages]
        subprocess.run(argv, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"})
    for log in (into / "var/log").iterdir():  # what the cleaners have to do in this base
        os.truncate(log, 0)
    return full(into)
