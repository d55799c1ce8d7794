"""The package files that a root of a suite is made of: written down when it is made, and made of these again.

What mmdebstrap has downloaded is kept by digest, as the package files of builds are. A root that is locked is
made of a repository that has exactly its packages, under the name of its suite; its own sources of packages
come back at the end.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

from buildstep.images.interface import SourceContext
from buildstep.images.locked import LockedImage
from buildstep.net.errors import HttpError
from buildstep.net.http import Http
from buildstep.net.request import HttpRequest
from buildstep.rootfs.installers import apt_locked
from buildstep.rootfs.installers.apt_archives import ArchiveStore
from buildstep.rootfs.installers.apt_sources import Sources
from buildstep.spec.lock import LockedPackage, MadeOf
from buildstep.system.root import Root

_LARGEST = 1 << 30

KEEP = ("--skip=essential/unlink",)
"""mmdebstrap leaves the package files where a hook finds them."""

_TELL = """\
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
form='${Package}:${Architecture}=${Version}\\n'
names=$(dpkg-query --admindir="$1/var/lib/dpkg" -W -f "$form" | sed 's/:all=/=/')
cd "$PACKAGE_NOTES"
apt-get --print-uris -oAcquire::ForceHash=SHA256 download $names > uris
apt-cache show --no-all-versions $names > stanzas
find "$1/var/cache/apt/archives" -maxdepth 1 -name '*.deb' -exec mv -t debs {} +
:"""
"""Run by mmdebstrap before it empties the lists and the cache. A root is as good without these notes."""

_RESTORE = """\
rm -rf "$1/etc/apt/sources.list" "$1/etc/apt/sources.list.d"/*
cp -R "$PACKAGE_NOTES/sources/." "$1/etc/apt/" """

_URI = re.compile(r"'(?P<uri>[^']+)' (?P<name>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})")
_FIELD = re.compile(r"(?m)^(Package|Version|Architecture|Priority|Filename): (\S+)$")


class SuitePackages:
    """The packages of one root. locked: what it has to be made of, if that is known."""

    def __init__(self, context: SourceContext, suite: str) -> None:
        self._context, self._suite = context, suite
        self._notes = context.cache / "notes"
        known = context.locked is not None and context.locked.base.packages
        self._locked = context.locked if known else None
        for name in ("debs", "shown", "downloads", "sources/sources.list.d"):
            (self._notes / name).mkdir(parents=True)

    @property
    def environ(self) -> Mapping[str, str]:
        """What the hooks need to know; and the time of a root that is made again."""
        found = {"PACKAGE_NOTES": str(self._notes)}
        if self._locked is not None:
            found["SOURCE_DATE_EPOCH"] = str(self._locked.base.epoch)
        return found

    @property
    def options(self) -> list[str]:
        """Return mmdebstrap's options."""
        hook = _TELL if self._locked is None else _RESTORE
        return [*KEEP, f"--customize-hook={hook}"]

    def source(self, mirror: str) -> str:
        """Return where mmdebstrap takes packages from; empty for its own choice. mirror: the agent's.

        Raises LockError where a package of a locked root is gone.
        """
        if self._locked is None:
            return mirror
        base = self._locked.base
        for path, text in base.sources.items():
            place = self._notes / "sources" / path.removeprefix("/etc/apt/")
            place.write_text(text)
            place.chmod(0o644)
        apt_locked.have(base.packages, self._supply(self._locked, mirror))
        files = self._notes / "shown"
        apt_locked.write_repository(files, base.packages, files, suite=self._suite)
        return f"deb [trusted=yes] copy:{files} ./"

    def _supply(self, locked: LockedImage, mirror: str) -> apt_locked.Supply:
        return apt_locked.Supply(
            lock=locked.lock,
            date=locked.date,
            store=self._store(),
            shown=self._notes / "shown",
            downloads=self._notes / "downloads",
            mirror=mirror,
            snapshot=locked.snapshot,
            download=self._download,
        )

    def _download(self, wanted: Mapping[Path, str]) -> None:
        context = self._context
        with Http(environ=context.environ, bus=context.bus) as http:
            for target, uri in wanted.items():
                with contextlib.suppress(HttpError):  # who wants it looks whether it is there
                    target.write_bytes(http.send(HttpRequest("GET", uri, limit=_LARGEST)).body)

    def _store(self) -> ArchiveStore:
        return ArchiveStore(self._context.packages or self._notes, self._context.bus)

    def made_of(self, root: Path, epoch: int, newest: int) -> MadeOf:
        """Return what a root was made of, and keep its package files. epoch: when it was made; newest: the
        latest date of its Release files.

        Without packages where that could not be found out: such a root cannot be made again.
        """
        if self._locked is not None:
            base = self._locked.base
            return MadeOf(epoch=base.epoch, newest=base.newest, sources=base.sources, packages=base.packages)
        sources = Sources.of(Root(root))
        rows = self._rows(sources)
        store = self._store()
        for row in rows:
            archive = apt_locked.archive_of(row)
            file = self._notes / "debs" / archive.name
            if problem := store.take(archive, file, self._notes / "shown"):
                self._context.bus.note(f"{archive.name} is not kept: it is {problem}")
        return MadeOf(epoch=epoch, newest=newest, sources=sources.files, packages=tuple(rows))

    def _rows(self, sources: Sources) -> list[LockedPackage]:
        known = {}
        try:
            texts = [(self._notes / name).read_text(errors="replace") for name in ("uris", "stanzas")]
        except OSError:  # of a variant for which mmdebstrap runs no hook
            return []
        for stanza in texts[1].split("\n\n"):
            fields = dict(_FIELD.findall(stanza))
            known[fields.get("Package"), fields.get("Version"), fields.get("Architecture")] = fields
        rows = []
        for match in map(_URI.match, texts[0].splitlines()):
            if match is None:
                continue
            name, version, arch = match["name"].removesuffix(".deb").split("_")
            version = re.sub("%([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), version)
            repository, file = sources.split(match["uri"], "")
            fields = known.get((name, version, arch), {})
            rows.append(
                LockedPackage(
                    name=name, version=version, arch=arch, sha256=match["sha256"], size=int(match["size"]),
                    file=file, repository=repository, priority=fields.get("Priority", ""),
                )
            )  # fmt: skip
        return sorted(rows, key=lambda row: (row.name, row.arch))
