"""mmdebstrap:SUITE[?variant=V&include=a,b&components=c,d]. A Debian root made by the tool of that name."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qsl

from buildstep.errors import CommandFailed, ImageError, ToolMissing
from buildstep.events import Reading
from buildstep.images.freshness import RELEASE, digest_of
from buildstep.images.interface import Identity, SourceContext, SourceImage
from buildstep.rootfs.installers.apt_faults import ARCHIVE_KEYRINGS, Advice, Keys, explain
from buildstep.rootfs.installers.dpkg_database import STATUS, installed_packages
from buildstep.system import process, userns

DEFAULTS = {"variant": "minbase", "include": "", "components": "main"}

_RELEASES = 'cd "$1/var/lib/apt/lists" && sha256sum *Release > "$RELEASES_FILE"'


class Mmdebstrap:
    scheme: ClassVar[str] = "mmdebstrap"

    def identify(self, locator: str, hasher: Callable[[Path], str]) -> Identity:
        del hasher
        suite, options = _parse(locator)
        words = [f"{key}={options[key]}" for key in sorted(options)]
        return Identity(
            key="&".join([f"mmdebstrap:{suite}", platform.machine(), *words]), label=f"mmdebstrap:{locator}"
        )

    def fetch(self, locator: str, into: Path, context: SourceContext) -> SourceImage:
        suite, options = _parse(locator)
        process.which("mmdebstrap")
        mirror = context.environ.get("BUILDSTEP_APT_MIRROR", "")
        argv = ["mmdebstrap", f"--variant={options['variant']}", f"--components={options['components']}"]
        # mmdebstrap gives its root the agent's host name and resolver, for its own use: not for an image.
        argv.append('--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"')
        # Which Release files it was made from, by which a later build sees that there is a newer base.
        releases = context.cache / "releases"
        argv.append(f"--customize-hook={_RELEASES}")
        if options["include"]:
            argv.append(f"--include={options['include']}")
        extra = {key: value for key, value in context.environ.items() if key in _PASSED}
        # mmdebstrap sets mtimes to this when it is given, so that equal packages make an equal base.
        env = process.base_env(os.environ, **extra) | {"TMPDIR": os.fspath(context.cache)}
        env["RELEASES_FILE"] = os.fspath(releases)
        archive = context.cache / "base.tar"
        target = into if context.privileged else archive
        command = [*argv, "--mode=root", f"--format={'directory' if context.privileged else 'tar'}"]
        command += [suite, os.fspath(target), *([mirror] if mirror else [])]
        if not context.privileged:
            command = _as_root_of_a_namespace(command)
        try:
            with context.bus.job(f"make {suite}", read=lambda: _made(into, archive)):
                process.run(
                    command,
                    env=env,
                    line=partial(context.bus.output, "mmdebstrap"),
                    limits=process.Limits(total=3600, idle=900),
                    what=f"mmdebstrap {suite}",
                )
            entries = None
            if not context.privileged:
                with archive.open("rb") as stream:
                    entries = context.unpack(stream, into)
        except CommandFailed as error:
            raise _explained(error, mirror) from error
        finally:
            archive.unlink(missing_ok=True)
        status = (into / STATUS.lstrip("/")).read_text(encoding="utf-8", errors="replace")
        return SourceImage(
            manifest={
                "name": f"debian-{suite}-{options['variant']}",
                "version": "0",
                "os": "linux",
                "type": "other",
                "description": f"Debian {suite} ({options['variant']})",
            },
            inputs={
                "mmdebstrap": process.query(["mmdebstrap", "--version"]).stdout.strip(),
                "suite": suite,
                RELEASE: digest_of(line.split()[0] for line in releases.read_text().splitlines()),
                **options,
            },
            packages=tuple(installed_packages(status)),
            entries=entries,
        )


def _made(root: Path, archive: Path) -> Reading:
    """Return how far a root is: bytes of packages that came, or of the archive that it is written to."""
    if archive.exists():
        return Reading(archive.stat().st_size, text="written")
    sizes = [file.stat().st_size for file in (root / "var/cache/apt/archives").rglob("*.deb")]
    unpacked = sum(1 for _ in (root / "var/lib/dpkg/info").glob("*.list"))
    return Reading(sum(sizes), text=f"{len(sizes)} packages fetched, {unpacked} unpacked")


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
