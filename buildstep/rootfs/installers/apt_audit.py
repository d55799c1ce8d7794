"""Debian's known problems of what is installed, by the image's own debsecan, without the network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from buildstep.errors import InstallError
from buildstep.rootfs.installers.apt_settings import ENV, OURS
from buildstep.rootfs.installers.common import failures
from buildstep.rootfs.interface import Audit, Finding, InstallJob, Package
from buildstep.system.root import Root

_TRACKER = "https://security-tracker.debian.org/tracker"
_GENERIC = "GENERIC"
"""debsecan's name of the list that is of no release."""


def audit(job: InstallJob, area: Path, installed: Sequence[Package]) -> Audit | None:
    """Run debsecan, in images that have it; None where there is none.

    Its list is fetched by the build: scripts of packages have run in the image, so that nothing there has the
    network any more. area: a directory of this build.
    """
    sandbox = job.sandbox
    if not sandbox.root.is_program("/usr/bin/debsecan"):
        return None
    suite = codename(sandbox.root)
    name = suite or _GENERIC
    if job.download is None:
        raise InstallError(
            "the audit needs the network, which package steps may not use",
            hint="leave out --no-network, or the audit",
        )
    folder = area / "audit"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(job.download(f"{_TRACKER}/debsecan/release/1/{name}"))
    argv = ["debsecan", "--format", "summary", "--source", f"file://{OURS}/audit/"]
    if suite:
        argv += ["--suite", suite]
    with sandbox.share(folder, f"{OURS}/audit"), failures("the audit", ()):
        text = sandbox.run(argv, env={**ENV, **job.env}, what="debsecan")
    versions = {package.name: package.version for package in installed}
    findings = []
    for row in text.splitlines():
        if match := re.fullmatch(r"(\S+) (\S+)(?: \((.*)\))?", row):
            problem, package, notes = match.groups(default="")
            urgency = re.search(r"(low|medium|high) urgency", notes)
            findings.append(
                Finding(
                    package=package,
                    version=versions.get(package, ""),
                    problem=problem,
                    url=f"{_TRACKER}/{problem}",
                    severity=urgency[1] if urgency else "",
                )
            )
    return Audit(text, tuple(findings))


def codename(root: Root) -> str:
    """Return the release's name, as /etc/os-release has it."""
    if not root.exists("/etc/os-release"):
        return ""
    found = re.search(
        r'^VERSION_CODENAME="?([a-z]+)"?$',
        root.read("/etc/os-release").decode(errors="replace"),
        re.MULTILINE,
    )
    return found[1] if found else ""
