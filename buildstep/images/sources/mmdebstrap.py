"""mmdebstrap:SUITE[?variant=V&include=a,b&components=c,d]. A Debian root made by the tool of that name."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qsl

from buildstep.errors import CommandFailed, ImageError, ToolMissing
from buildstep.images.interface import Identity, SourceContext, SourceImage
from buildstep.rootfs.interface import Package
from buildstep.system import process, userns

DEFAULTS = {"variant": "minbase", "include": "", "components": "main"}

_HINT = "is the Debian mirror reachable? BUILDSTEP_APT_MIRROR names another"


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
        if options["include"]:
            argv.append(f"--include={options['include']}")
        extra = {key: value for key, value in context.environ.items() if key in _PASSED}
        # mmdebstrap sets mtimes to this when it is given, so that equal packages make an equal base.
        env = process.base_env(os.environ, **extra) | {"TMPDIR": os.fspath(context.cache)}
        archive = context.cache / "base.tar"
        target = into if context.privileged else archive
        command = [*argv, "--mode=root", f"--format={'directory' if context.privileged else 'tar'}"]
        command += [suite, os.fspath(target), *([mirror] if mirror else [])]
        if not context.privileged:
            command = _as_root_of_a_namespace(command)
        try:
            process.run(
                command,
                env=env,
                line=lambda text: context.bus.output("mmdebstrap", text),
                limits=process.Limits(total=3600, idle=900),
                what=f"mmdebstrap {suite}",
            )
            entries = None
            if not context.privileged:
                with archive.open("rb") as stream:
                    entries = context.unpack(stream, into)
        except CommandFailed as error:
            raise ImageError(error.message, detail=error.detail, hint=_HINT, retryable=True) from error
        finally:
            archive.unlink(missing_ok=True)
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
                **options,
            },
            packages=tuple(dpkg_packages(into / "var/lib/dpkg/status")),
            entries=entries,
        )


def _as_root_of_a_namespace(command: list[str]) -> list[str]:
    """Return a command line that lets an ordinary user make a root.

    mmdebstrap's own way (--mode=unshare) maps the user to nobody, and nobody may enter a pool. Raises
    ToolMissing, saying all that this user lacks.
    """
    if missing := userns.missing():
        raise ToolMissing(
            "mmdebstrap needs root, or a user namespace, and this user can have none",
            detail="\n".join(f"  missing: {what} ({remedy})" for what, remedy in missing),
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


def dpkg_packages(status: Path) -> list[Package]:
    """The installed packages of a dpkg status file, sorted by name."""
    found = []
    for paragraph in status.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        fields = dict(
            re.findall(r"^(Package|Version|Architecture|Source|Status): (.*)$", paragraph, re.MULTILINE)
        )
        if fields.get("Status", "").endswith(" installed"):
            found.append(
                Package(
                    name=fields["Package"],
                    version=fields["Version"],
                    arch=fields.get("Architecture", ""),
                    source=fields.get("Source", ""),
                )
            )
    return sorted(found, key=lambda package: package.name)
