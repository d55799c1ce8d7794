"""mmdebstrap:SUITE[?variant=V&include=a,b&components=c,d]. A Debian root made by the tool of that name."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import parse_qsl

from buildstep.errors import CommandFailed, ImageError, ToolMissing
from buildstep.events import Reading
from buildstep.formats.oci.spec import OciPlatform
from buildstep.images.freshness import RELEASE, digest_of
from buildstep.images.interface import Identity, SourceContext, SourceImage
from buildstep.images.sources import settled
from buildstep.images.sources.oci import platform_of
from buildstep.images.sources.suite_packages import SuitePackages
from buildstep.rootfs import emulation
from buildstep.rootfs.installers.apt_faults import ARCHIVE_KEYRINGS, Advice, Keys, explain
from buildstep.rootfs.installers.dpkg_database import STATUS, installed_packages
from buildstep.system import process, userns
from buildstep.system.root import Root
from buildstep.system.text import size_text

DEFAULTS = {"variant": "minbase", "include": "", "components": "main"}

_RELEASES = """\
cd "$1/var/lib/apt/lists" && sha256sum *Release > "$RELEASES_FILE"
grep -h '^Date:' *Release > "$RELEASES_FILE.dates" || :"""


_DEBIAN: Final[Mapping[str, str]] = {
    "386": "i386", "arm": "armhf", "arm/v5": "armel", "arm/v6": "armel", "loong64": "loong64",
    "mips64le": "mips64el", "mipsle": "mipsel", "ppc64le": "ppc64el",
}  # fmt: skip
"""What Debian calls architectures that have another name there (Debian Policy, section 11.1)."""


class Mmdebstrap:
    """environ: BUILDSTEP_PLATFORM may name another platform than the machine's. It makes no HTTP calls."""

    scheme: ClassVar[str] = "mmdebstrap"

    def __init__(self, environ: Mapping[str, str] = os.environ, *_limits: object) -> None:
        self._platform = platform_of(environ)

    @property
    def _is_foreign(self) -> bool:
        here = OciPlatform.here()
        return (here.os, here.architecture) != (self._platform.os, self._platform.architecture)

    def foresee(self, locator: str) -> None:
        """Raise ToolMissing where such a root cannot be made on this machine: packages have scripts, and only
        of the variant `extract` none is run."""
        _, options = _parse(locator)
        if self._is_foreign and options["variant"] != "extract":
            emulation.demand(self._platform, f"making mmdebstrap:{locator} runs")

    def identify(self, locator: str, hasher: Callable[[Path], str]) -> Identity:
        del hasher
        suite, options = _parse(locator)
        words = [f"{key}={options[key]}" for key in sorted(options)]
        machine = _debian(self._platform) if self._is_foreign else platform.machine()
        return Identity(key="&".join([f"mmdebstrap:{suite}", machine, *words]), label=f"mmdebstrap:{locator}")

    def fetch(self, locator: str, into: Path, context: SourceContext) -> SourceImage:
        suite, options = _parse(locator)
        process.which("mmdebstrap")
        self.foresee(locator)
        mirror = context.environ.get("BUILDSTEP_APT_MIRROR", "")
        # Which Release files it was made from, by which a later build sees that there is a newer base.
        releases = context.cache / "releases"
        made = SuitePackages(context, suite)
        argv = [*self._argv(options), *made.options]
        extra = {key: value for key, value in context.environ.items() if key in _PASSED}
        env = process.base_env(os.environ, **extra) | {"TMPDIR": os.fspath(context.cache)}
        env |= {"RELEASES_FILE": os.fspath(releases), **made.environ}
        begin = _now(env)
        archive = context.cache / "base.tar"
        # Where nobody can make device nodes, mmdebstrap leaves out all that belongs into /dev, except in a
        # tar archive, into which it writes them without making them.
        whole = context.privileged and not userns.in_user_namespace()
        target = into if whole else archive
        command = [*argv, "--mode=root", f"--format={'directory' if whole else 'tar'}"]
        source = made.source(mirror)
        command += [suite, os.fspath(target), *([source] if source else [])]
        if not context.privileged:
            command = _as_root_of_a_namespace(command)
        try:
            with context.bus.job(f"mmdebstrap {suite}", unit="percent", read=lambda: _made(into, archive)):
                process.run(
                    command,
                    env=env,
                    line=partial(context.bus.output, "mmdebstrap"),
                    limits=process.Limits(total=3600, idle=900),
                    what=f"mmdebstrap {suite}",
                )
            entries = None
            if not whole:
                with archive.open("rb") as stream:
                    entries = context.unpack(stream, into)
        except CommandFailed as error:
            raise _explained(error, mirror) from error
        finally:
            archive.unlink(missing_ok=True)
        newest = _newest(releases, context)
        if newest:
            settled.settle_accounts(Root(into), entries, settled.days_of(begin, _now(env)), newest)
        settled.settle_times(into, entries, newest or begin)
        status = (into / STATUS.lstrip("/")).read_text(encoding="utf-8", errors="replace")
        return SourceImage(
            manifest=_manifest(suite, options["variant"]),
            inputs={
                "mmdebstrap": process.query(["mmdebstrap", "--version"]).stdout.strip(),
                "suite": suite,
                RELEASE: _release(releases, context),
                **options,
            },
            packages=tuple(installed_packages(status)),
            entries=entries,
            config=self._platform.to_json(),
            made_of=made.made_of(into, begin, newest),
        )

    def _argv(self, options: Mapping[str, str]) -> list[str]:
        """Return the words that say what root is made, but for its suite."""
        argv = ["mmdebstrap", f"--variant={options['variant']}", f"--components={options['components']}"]
        # mmdebstrap gives its root the agent's host name and resolver, for its own use: not for an image.
        argv.append('--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"')
        argv.append(f"--customize-hook={_RELEASES}")
        if self._is_foreign:
            # Whether its programs run is known: what mmdebstrap asks for that is another package.
            argv += [f"--architectures={_debian(self._platform)}", "--skip=check/qemu"]
        if options["include"]:
            argv.append(f"--include={options['include']}")
        return argv


def _manifest(suite: str, variant: str) -> dict[str, str]:
    about = f"Debian {suite} ({variant})"
    name = f"debian-{suite}-{variant}"
    return {"name": name, "version": "0", "os": "linux", "type": "other", "description": about}


def _release(releases: Path, context: SourceContext) -> str:
    """Return a digest over the Release files that a root was made from: at first, if it is made again."""
    if context.locked is not None and context.locked.base.release:
        return context.locked.base.release
    return digest_of(line.split()[0] for line in releases.read_text().splitlines())


def _now(env: Mapping[str, str]) -> int:
    """Return the time as scripts of packages see it that have this environment."""
    return int(env.get("SOURCE_DATE_EPOCH") or time.time())


def _newest(releases: Path, context: SourceContext) -> int:
    """Return the latest date of the Release files that a root was made from, 0 where that is not known."""
    if context.locked is not None:
        return context.locked.base.newest
    return settled.newest_of(releases.with_name(f"{releases.name}.dates").read_text().splitlines())


def _made(root: Path, archive: Path) -> Reading:
    """Return how far a root is, in words: how many packages there will be is only known at the end."""
    if archive.exists():
        return Reading(0, text=f"{size_text(archive.stat().st_size)} written")
    sizes = [file.stat().st_size for file in (root / "var/cache/apt/archives").rglob("*.deb")]
    unpacked = sum(1 for _ in (root / "var/lib/dpkg/info").glob("*.list"))
    return Reading(0, text=f"{len(sizes)} packages of {size_text(sum(sizes))} fetched, {unpacked} unpacked")


# -- when it fails ------------------------------------------------------------------------------------------

_DISTRO_INFO = Path("/usr/share/distro-info")
"""Tables of the suites of Debian and Ubuntu, by which mmdebstrap chooses a mirror and keys."""

_TRUSTED = "/etc/apt/trusted.gpg.d"


def _explained(error: CommandFailed, mirror: str) -> ImageError:
    """Return the error for a root that could not be made, with its cause. mirror: the one that was given."""
    place = f"BUILDSTEP_APT_MIRROR (now {mirror})" if mirror else "BUILDSTEP_APT_MIRROR"
    advice = Advice(
        keys=_keys,
        mirror=f"{place} names another mirror",
        authority="put its authority's certificate into this host's /usr/local/share/ca-certificates, and"
        " run update-ca-certificates",
        sources="mmdebstrap:SUITE?components=A,B",
        expired="take a mirror that is renewed; of an archive that no longer is make the root by hand, and"
        " import it: tar:FILE",
    )
    cause = None if error.limit else explain(error.detail, advice)
    if cause is None:
        return ImageError(error.message, detail=error.detail, hint=error.hint)
    what = error.message.partition(": ")[0]
    return ImageError(
        f"{what}: {cause.text}", detail=error.detail, hint=cause.hint, retryable=cause.retryable
    )


def _keys(uri: str, suite: str) -> Keys:
    """Return the keys that mmdebstrap believes: the vendor's, if this host has them, and those of its apt."""
    vendor = next((name for name in ARCHIVE_KEYRINGS if _is_of(name, uri, suite)), "")
    if not vendor:
        return Keys(
            f"{_TRUSTED} of this host", f"put the key of those who run the repository into {_TRUSTED}"
        )
    keyring, package = ARCHIVE_KEYRINGS[vendor]
    if os.path.exists(keyring):
        return Keys(f"{keyring} of this host", f"install a newer {package} on this host")
    return Keys(
        f"{_TRUSTED} of this host, which has no {keyring}", f"install the package {package} on this host"
    )


def _is_of(vendor: str, uri: str, suite: str) -> bool:
    with contextlib.suppress(OSError):
        rows = (_DISTRO_INFO / f"{vendor}.csv").read_text().splitlines()
        if any(row.split(",")[2:3] == [suite.partition("-")[0]] for row in rows):
            return True
    return vendor in uri or suite.startswith(vendor)


def _as_root_of_a_namespace(command: list[str]) -> list[str]:
    """Return a command line that lets an ordinary user make a root.

    mmdebstrap's own way (--mode=unshare) maps the user to nobody, and nobody may enter a pool. Raises
    ToolMissing, saying all that this user lacks.
    """
    if lacks := userns.lacks():
        raise ToolMissing(
            "mmdebstrap needs root, or a user namespace, and this user can have none",
            detail=userns.told(lacks),
            hint="add what is missing, run as root, or import a root that was made elsewhere: tar:FILE",
        )
    return userns.enter_argv("unshare", "--mount", "--pid", "--fork", "--kill-child", "--", *command)


def _debian(wanted: OciPlatform) -> str:
    """Return what Debian calls the processor of a platform."""
    full = "/".join(part for part in (wanted.architecture, wanted.variant) if part)
    return _DEBIAN.get(full) or _DEBIAN.get(wanted.architecture, wanted.architecture)


_PASSED = (
    "SOURCE_DATE_EPOCH",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)


def _parse(locator: str) -> tuple[str, dict[str, str]]:
    suite, _, query = locator.partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(given) - set(DEFAULTS))
    safe = all(re.fullmatch(r"[A-Za-z0-9.,+~_-]*", value) for value in (suite, *given.values()))
    if not suite or suite.startswith("-") or unknown or not safe:
        raise ImageError(
            f"mmdebstrap:{locator} is not SUITE[?variant=V&include=a,b&components=c,d]",
            hint=f"unknown: {', '.join(unknown)}" if unknown else "such as mmdebstrap:bookworm",
        )
    return suite, DEFAULTS | given
