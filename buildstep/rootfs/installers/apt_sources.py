"""Where an image's apt fetches from, and the same through the CI host's mirror, for one build only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from buildstep.errors import BuildstepError, InstallError, SandboxError
from buildstep.rootfs.installers.apt_settings import OURS
from buildstep.rootfs.interface import InstallJob, Sandbox
from buildstep.system import process, sealed
from buildstep.system.root import Root

LIST = "/etc/apt/sources.list"
PARTS = "/etc/apt/sources.list.d"

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.(list|sources)")
"""What the files in PARTS are called; apt passes over others, and over what is no file (sources.list(5))."""

# Hosts that serve the living archive. Not snapshot. and archive.debian.org: who names these wants them.
_DEBIAN_HOST = re.compile(
    r"(deb|security|cdn-fastly|httpredir|http|cloudfront|ftp|(ftp\.)?[a-z]{2}|(ftp|cdn)\.[a-z]{2})\.debian\.org"
)
_OFF = ("no", "false", "without", "off", "disable", "0")
"""What apt takes for no (`StringToBool` in its apt-pkg/contrib/strutl.cc)."""
_URI = re.compile(r"(?P<uri>(?:https?|ftp|mirror\+https?)://\S+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The sources files of an image, by their path in it."""

    files: Mapping[str, str]

    @classmethod
    def of(cls, root: Root) -> Sources:
        """Read the sources files of a root as apt does; links are followed inside it."""
        paths = [LIST]
        folder = root.host_path(PARTS)
        if folder is not None and folder.is_dir():
            paths += [f"{PARTS}/{name}" for name in sorted(os.listdir(folder)) if _PART.fullmatch(name)]
        files = [path for path in paths if root.is_file(path)]
        return cls(files={path: root.read(path).decode(errors="replace") for path in files})

    def through(self, mirror: str) -> Sources:
        """Return the same sources with Debian's hosts replaced by a mirror. Raises InstallError."""
        if not mirror:
            return self
        if urlsplit(mirror).scheme not in ("http", "https", "file") or re.search(r"\s", mirror):
            raise InstallError(
                f"{mirror!r} is not the address of a Debian mirror",
                hint="write it as http://HOST/debian",
            )
        return Sources(
            files={path: _rewritten(path, text, mirror.rstrip("/")) for path, text in self.files.items()}
        )

    def signed_by(self, uri: str, suite: str) -> tuple[str, str]:
        """Return the sources file that names a repository, and what it says of its keys; "" for neither."""
        for path, text in self.files.items():
            for uris, suites, keys in _entries(path, text):
                if suite in suites and uri.rstrip("/") in [item.rstrip("/") for item in uris]:
                    return path, keys
        return "", ""

    def release_urls(self) -> list[tuple[str, ...]]:
        """Return where each repository's Release file may be; sources.list(5) has suites that are paths."""
        found: dict[tuple[str, ...], None] = {}
        for path, text in self.files.items():
            for uris, suites, _ in _entries(path, text):
                for uri in uris:
                    for suite in suites:
                        folder = suite if suite.endswith("/") else f"dists/{suite}/"
                        place = f"{uri.rstrip('/')}/{folder.removeprefix('./')}"
                        found[f"{place}InRelease", f"{place}Release"] = None
        return list(found)

    def split(self, uri: str, mirror: str) -> tuple[str, str]:
        """Return of a package file's URI the repository as these sources name it, and the path in that.

        mirror: the one that the URI goes through.
        """
        names = [
            own for path, text in self.files.items() for uris, _, _ in _entries(path, text) for own in uris
        ]
        places = {f"{mirrored(own, mirror.rstrip('/')).rstrip('/')}/": own.rstrip("/") for own in names}
        for place in sorted(places, key=len, reverse=True):
            if uri.startswith(place):
                return places[place], _plain(uri.removeprefix(place))
        parts = urlsplit(uri)
        top = f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"
        return top, _plain(uri.removeprefix(top))

    @contextlib.contextmanager
    def shown(self, sandbox: Sandbox) -> Iterator[str]:
        """Show these sources inside for the length of a block, and return the settings by which apt reads
        them instead of the image's."""
        with contextlib.ExitStack() as stack:
            for path, text in self.files.items():
                where = f"{OURS}/{path.removeprefix('/etc/apt/')}"
                stack.enter_context(sandbox.temporary_file(where, text.encode()))
                if (put := sandbox.root.host_path(where)) is not None:
                    os.utime(put, (1, 1))  # apt takes its form of the lists for stale if sources are younger
            names = ("sourcelist", "sources.list"), ("sourceparts", "sources.list.d")
            yield "".join(f'Dir::Etc::{name} "{OURS}/{where}";\n' for name, where in names)

    def digest(self) -> str:
        """Return a name for the package lists that these sources give."""
        state = hashlib.sha256()
        for path, text in sorted(self.files.items()):
            state.update(f"{path}\0{text}\0".encode())
        return state.hexdigest()[:32]


def _entries(path: str, text: str) -> Iterator[tuple[list[str], list[str], str]]:
    """Yield of each entry of a sources file its URIs, suites, and the value of Signed-By.

    Those that are disabled are left out; see sources.list(5).
    """
    if path.endswith(".list"):
        for line in text.splitlines():
            if match := re.match(r"\s*deb(?:-src)?\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)", line):
                options = dict(word.split("=", 1) for word in (match[1] or "").split() if "=" in word)
                yield [match[2]], [match[3]], options.get("signed-by", "").strip('"')
        return
    for paragraph in re.split(r"\n[ \t]*\n", text):
        plain = "\n".join(line for line in paragraph.splitlines() if not line.startswith("#"))
        fields = re.findall(r"(?m)^([A-Za-z-]+):((?:.*)(?:\n[ \t].*)*)", plain)
        values = {name.lower(): value.strip() for name, value in fields}
        if values.get("enabled", "").lower() in _OFF:
            continue
        yield values.get("uris", "").split(), values.get("suites", "").split(), values.get("signed-by", "")


def _plain(path: str) -> str:
    """Return the path of a package file as simply as it can be written."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def lists_key(job: InstallJob, sources: Sources) -> str:
    """Return the name under which package lists are kept.

    It is made of the base image, of all settings of its apt (its keys too, by which lists are believed), and
    of the environment: lists that one image's apt fetched are read by the apt of no other kind of image.
    """
    root = job.sandbox.root
    state = hashlib.sha256(f"{job.base}\0{sources.digest()}\0{sorted(job.env.items())}\0".encode())
    top = root.host_path("/etc/apt")
    for folder, _, names in sorted(os.walk(top)) if top is not None else ():
        for name in sorted(names):
            path = f"/etc/apt/{os.path.relpath(os.path.join(folder, name), top)}"
            state.update(f"{path}\0".encode(errors="surrogateescape"))
            with contextlib.suppress(OSError, SandboxError):
                state.update(hashlib.sha256(root.read(path)).digest())
    return state.hexdigest()


def _rewritten(path: str, text: str, mirror: str) -> str:
    def replaced(match: re.Match[str]) -> str:
        return mirrored(match["uri"], mirror)

    if path.endswith(".list"):
        return re.sub(
            r"^(\s*deb(?:-src)?\s.*)$", lambda m: _URI.sub(replaced, m[0]), text, flags=re.MULTILINE
        )
    # deb822: the URIs field, with its continuation lines.
    return re.sub(
        r"^URIs:.*(?:\n[ \t].*)*",
        lambda m: _URI.sub(replaced, m[0]),
        text,
        flags=re.MULTILINE | re.IGNORECASE,
    )


def mirrored(uri: str, mirror: str) -> str:
    """Return a URI as a mirror has it; one that is not on a host of Debian's stays."""
    if not mirror:
        return uri
    parts = urlsplit(uri)
    if parts.hostname is None or not _DEBIAN_HOST.fullmatch(parts.hostname):
        return uri
    end = "/" if uri.endswith("/") else ""
    if parts.hostname.startswith("security.") or parts.path.rstrip("/").endswith("/debian-security"):
        # The security archive lies beside the main one on every mirror that has it; others get it as before.
        return f"{mirror}-security{end}" if mirror.endswith("/debian") else uri
    return f"{mirror}{end}"


def host_mirror(environ: Mapping[str, str], notes: Path | None = None) -> str:
    """Return the Debian mirror that the CI host's own apt is set to; empty where there is none.

    notes: a directory where the result is kept for as long as nothing changes that apt reads.
    """
    if process.find("apt-get") is None:
        return ""
    env = process.base_env(environ)
    path, seen = notes and notes / "mirror.json", _touched(env)
    if path is not None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            known = sealed.read(path)
            if known["seen"] == seen:
                return str(known["mirror"])
    found = _mirror_of_apt(env)
    if path is not None:
        sealed.write(path, {"seen": seen, "mirror": found}, durable=False)
    return found


def _touched(env: Mapping[str, str]) -> str:
    """Return a digest of what the result depends on: apt's settings, and when its lists last changed."""
    found = sorted(f"{name}={value}" for name, value in env.items())
    tops = ("/etc/apt", "/etc/apt/apt.conf.d", "/etc/apt/sources.list.d", "/var/lib/apt/lists")
    for top in tops:
        with contextlib.suppress(OSError), os.scandir(top) as listing:
            for item in listing if top.startswith("/etc") else ():
                info = item.stat()
                found.append(f"{item.path} {info.st_ino} {info.st_size} {info.st_ctime_ns}")
            found.append(f"{top} {Path(top).stat().st_ctime_ns}")
    return hashlib.sha256("\n".join(sorted(found)).encode(errors="surrogateescape")).hexdigest()


def _mirror_of_apt(env: Mapping[str, str]) -> str:
    query = ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"]
    try:
        listed = process.query(query, env=env, what="the CI host's apt").stdout
    except BuildstepError:  # a host whose apt is broken has no mirror
        return ""
    for row in listed.splitlines():
        match row.split("|"):
            case ["Debian", "Debian", uri] if uri.startswith(("http://", "https://")):
                return uri.rstrip("/")
    return ""
