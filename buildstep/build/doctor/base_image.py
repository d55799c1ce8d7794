"""The base image, the package manager in it, the servers that things come from, and the clock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from buildstep.build import cache_inputs
from buildstep.build.doctor.findings import Examination
from buildstep.build.doctor.network import SECONDS, mirror_of, reach
from buildstep.errors import BuildstepError, ExitCode, ImageError, SandboxError
from buildstep.events import Bus
from buildstep.images import sources
from buildstep.images.record import root_in
from buildstep.images.remote import Remote
from buildstep.images.sources.local_file import NAMED_INSIDE, check_file, path_of
from buildstep.images.sources.mmdebstrap import Mmdebstrap
from buildstep.images.sources.oci import platform_of
from buildstep.images.store import ImageRecord
from buildstep.pool.interface import Backend, Kind
from buildstep.rootfs import installers, proxies
from buildstep.spec.load import BuildSpec
from buildstep.system.text import plural, size_text

_SKEW = 300.0
"""Seconds that the clock may differ from a server's: package indexes and certificates bear about this."""
_OLDEST = 1704067200.0
"""2024-01-01: no clock that is right is before this version."""


# -- the base image ------------------------------------------------------------------------------------------


def record_of(backend: Backend, ref: str, environ: Mapping[str, str]) -> ImageRecord | None:
    """The store's record of a reference. Asks no network, hashes no archive, and writes nothing.

    environ: with the platform that it is wanted for, where that is not this machine's.
    """
    scheme, _, locator = ref.partition(":")
    path = path_of(ref)
    wanted = Mmdebstrap(environ).identify(locator, str).key if scheme == "mmdebstrap" else ref
    ending = ""
    if path is not None and scheme in NAMED_INSIDE:
        # The images of one file differ by their keys.
        try:
            wanted = _identify(ref)
        except ImageError:
            return None  # `_local` says what is wrong
        # In the key of a compressed one is the file's digest; behind it is which image it is.
        _, hashed, ending = wanted.partition(_NOT_HASHED)
        path = path if hashed else None
    found = None
    for record in _records(backend):
        same = ref in (record.uuid, f"{record.name}@{record.version}") or record.key == wanted
        if path is not None:
            same = os.fspath(path.absolute()) in record.inputs.values() and record.key.endswith(ending)
        elif scheme in ("docker", "files"):
            same = same or ref in record.inputs.values()
        same = same and record.is_for(str(platform_of(environ)))
        if same and (found is None or record.imported >= found.imported):
            found = record
    return found


def _records(backend: Backend) -> Iterator[ImageRecord]:
    for path in sorted((backend.state / "images").glob("*.json")):
        try:
            record = ImageRecord.read(path)
            if backend.exists(Kind.IMAGE, record.uuid):
                yield record
        except (OSError, ValueError, KeyError, TypeError, BuildstepError):
            continue  # a build says so, and imports the image again


def image(seen: Examination) -> None:
    """Whether the base image is in the store, or can be had."""
    spec = seen.spec
    if spec is None:
        return
    ref = spec.image
    scheme, colon, locator = ref.partition(":")
    if colon and scheme not in sources.SOURCES.names():
        raise sources.unknown_scheme(ref)  # as a build does
    if seen.backend is not None:
        seen.image = record_of(seen.backend, ref, seen.environ)
    if seen.image is not None:
        size = size_text(seen.image.size)
        seen.ok(
            "image",
            ref,
            f"is in the store as {seen.image.uuid}, {size} in {plural(seen.image.files, 'file')}",
        )
    elif scheme == "scratch":
        seen.ok("image", ref, "is an empty tree")
    elif (path := path_of(ref)) is not None:
        _local(seen, ref, path)
    elif not colon and os.path.exists(ref):
        _local(seen, ref, Path(ref))
    elif not colon:
        _remote(seen, ref)
    elif scheme == "mmdebstrap":
        source = Mmdebstrap(seen.environ)
        source.identify(locator, str)
        source.foresee(locator)
        seen.ok("image", ref, "is made by the first build")
    elif scheme == "files":
        parsed = sources.parse(ref, environ=seen.environ)
        assert parsed is not None
        parsed[0].identify(parsed[1], str)
        seen.ok("image", ref, "is in that store, and is checked out by the first build")


_NOT_HASHED = "\0"
"""In place of a file's digest in the key of an image: in no path or name."""


def _identify(ref: str) -> str:
    """Return the key of an image in a file without hashing the file. Raises ImageError for a wrong file."""
    parsed = sources.parse(ref)
    assert parsed is not None
    return parsed[0].identify(parsed[1], lambda _path: _NOT_HASHED).key


def _local(seen: Examination, ref: str, path: Path) -> None:
    if not os.path.exists(path) or not os.access(path, os.R_OK):
        fix = "check the path; it is relative to the directory that the build runs in"
        seen.fail("image", ref, f"{path} cannot be read", fix, ExitCode.IMAGE)
        return
    if ref.startswith(("tar:", *(f"{scheme}:" for scheme in NAMED_INSIDE))):
        try:
            _identify(ref)
            check_file(ref)
        except ImageError as error:
            seen.error("image", ref, error)
            return
    size = f", {size_text(path.stat().st_size)}" if path.is_file() else ""
    seen.ok("image", ref, f"can be imported from {path}{size}")


def _remote(seen: Examination, ref: str) -> None:
    """A uuid or name@version that is not in the store: do the configured sources have it?"""
    brief = {"connect": SECONDS, "response": SECONDS, "idle": SECONDS, "attempts": 1}
    remote = Remote(seen.config.sources, environ=seen.environ, http=brief, bus=Bus())
    have = set() if seen.backend is None else {record.uuid for record in _records(seen.backend)}
    try:
        chain = remote.resolve(ref, lambda uuid: uuid in have)
    except ImageError as error:
        seen.error("image", ref, error)
        return
    finally:
        remote.close()
    seen.download = sum(row.get("size", 0) for found in chain for row in found.manifest.get("files", [])[:1])
    label = chain[-1].repository.label
    more = f", with {len(chain) - 1} images that it stands on" if len(chain) > 1 else ""
    seen.ok("image", ref, f"can be had from {label}, {size_text(seen.download)}{more}")


# -- what installs packages in it ----------------------------------------------------------------------------


def installer(seen: Examination) -> None:
    """Whether the package manager is there, as far as that can be told before the base image is."""
    spec = seen.spec
    if spec is None or not seen.packages:
        return
    named = None if spec.installer == "auto" else installers.get(spec.installer)
    if seen.image is None or seen.backend is None:
        if named is not None:
            seen.ok("installer", spec.installer, "is known; whether the image has it shows after the import")
        return
    with seen.backend.tree(Kind.IMAGE, seen.image.uuid) as tree:
        root = root_in(tree, seen.image.manifest)
        found = named if named is not None and named.detect(root) else installers.detect(root)
    has = (
        f"the base image has {found.name}" if found else "the base image has no package manager that we know"
    )
    if found is None or (named is not None and found.name != named.name):
        known = ", ".join(installers.INSTALLERS)
        fix = f"take another base image, or name another installer ({known})"
        seen.fail("installer", spec.installer, has, fix, ExitCode.INSTALL)
    else:
        seen.ok("installer", spec.installer, has)


# -- the network --------------------------------------------------------------------------------------------


def network(seen: Examination) -> None:
    """Whether the servers answer that this build fetches from."""
    spec = seen.spec
    if spec is None:
        return
    asked = _base_network(seen, spec) if seen.image is None else ""
    if seen.packages:
        _packages_network(seen, spec, asked)


def _base_network(seen: Examination, spec: BuildSpec) -> str:
    """Where a base image that is not here comes from; the URL that was asked."""
    scheme, _, locator = spec.image.partition(":")
    if scheme == "mmdebstrap":
        suite = locator.partition("?")[0]
        mirror = seen.environ.get("BUILDSTEP_APT_MIRROR") or "http://deb.debian.org/debian"
        url = f"{mirror.rstrip('/')}/dists/{suite}/InRelease"
        hint = "BUILDSTEP_APT_MIRROR names another mirror, http_proxy a proxy"
        _ask(seen, url, ok=range(200, 300), code=ExitCode.IMAGE, hint=hint)
        return url
    if scheme == "docker":
        from buildstep.net.registry import Reference, is_loopback

        host = Reference.parse(locator).host
        listed = seen.environ.get("BUILDSTEP_INSECURE_REGISTRIES", "").split(",")
        plain = host in [*listed, *seen.config.insecure_registries] or is_loopback(host)
        url = f"{'http' if plain else 'https'}://{host}/v2/"
        # 401 is how a registry asks who we are: it is there.
        _ask(
            seen, url, ok=range(200, 500), code=ExitCode.IMAGE, hint="is the name right, and the network up?"
        )
        return url
    return ""


def _packages_network(seen: Examination, spec: BuildSpec, asked: str) -> None:
    if not spec.network:
        seen.ok("network", "packages", "no step may use it")
        return
    try:
        for note in proxies.proxies_from(seen.environ).notes:
            seen.ok("network", "proxy", note)
    except SandboxError as error:
        seen.error("network", "proxy", error)
    if not Path("/etc/resolv.conf").exists():
        what = "is not there: no name can be looked up in the image"
        seen.warn("network", "/etc/resolv.conf", what, "set up the agent's resolver")
    found = spec.installer if seen.image is None else cache_inputs.installer(spec, seen.image)
    apt = found == "apt" or spec.image.startswith("mmdebstrap:")
    mirror = mirror_of(spec, seen.environ) if apt else ""
    release = f"{mirror.rstrip('/')}/dists/"
    if mirror and not asked.startswith(release):
        hint = "the installer option mirror, or BUILDSTEP_APT_MIRROR, names another"
        # The layer with the packages may be cached; only the build can tell.
        suite = (
            spec.image.removeprefix("mmdebstrap:").partition("?")[0] if "mmdebstrap:" in spec.image else ""
        )
        url = f"{release}{suite}/InRelease" if suite else release
        _ask(seen, url, ok=range(200, 300 if suite else 500), code=0, hint=hint)


def _ask(seen: Examination, url: str, *, ok: Sequence[int], code: int, hint: str) -> None:
    """Ask a server. code: what a build ends with when it does not answer; 0 if that is not sure."""
    answer = reach(url, seen.environ, ok=ok)
    if not answer.problem:
        seen.ok("network", answer.shown, f"answers in {answer.seconds:.2f} s")
        seen.skews += [] if answer.skew is None else [answer.skew]
    elif code:
        seen.fail("network", answer.shown, answer.problem, hint, code)
    else:
        seen.warn("network", answer.shown, answer.problem, hint)


# -- the clock -----------------------------------------------------------------------------------------------


def clock(seen: Examination) -> None:
    """Whether the clock can be right, by what servers and the pool say."""
    now = time.time()
    today = time.strftime("%Y-%m-%d", time.gmtime(now))
    fix = "set the clock, and keep it by NTP"
    written = [] if seen.backend is None else [path.stat().st_mtime for path in _written(seen.backend)]
    newest = max(written, default=0.0)
    if now < _OLDEST:
        what = f"says {today}: certificates and package indexes are not valid yet"
        seen.fail("clock", "clock", what, fix, ExitCode.TOOL_MISSING)
    elif seen.skews and abs(seen.skews[0]) > _SKEW:
        word = "ahead of" if seen.skews[0] > 0 else "behind"
        seen.warn("clock", "clock", f"is {abs(seen.skews[0]):.0f} s {word} the server's", fix)
    elif newest > now + _SKEW:
        what = f"says {today}, but the pool was written to {(newest - now) / 60:.0f} minutes later than now"
        seen.warn("clock", "clock", what, fix)
    else:
        seen.ok("clock", "clock", f"{today}{', as the servers have it' if seen.skews else ''}")


def _written(backend: Backend) -> Iterator[Path]:
    for folder in ("images", "layers", "artifacts"):
        yield from (backend.state / folder).glob("*.json")
