"""What apt would change in a root, and which of it comes from where security updates do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from buildstep.rootfs.installers.dpkg_database import newer
from buildstep.rootfs.interface import Update

_INST = re.compile(
    r"Inst (?P<name>[^\s:]+)(?::\S+)?(?: \[(?P<old>[^\]]*)\])?"
    r" \((?P<new>\S+) ?(?P<from>.*?) ?\[(?P<arch>[^\]]*)\]\)"
)
_REMOVED = re.compile(r"(?:Remv|Purg) (?P<name>[^\s:]+)(?::(?P<arch>\S+))? \[(?P<old>[^\]]*)\]")


def ask(apt_get: Callable[[Sequence[str]], str], apt_cache: Callable[[Sequence[str]], str]) -> list[Update]:
    """Return what an upgrade would change. apt_get, apt_cache: run these programs, return what they print."""
    found = simulated(apt_get(["--simulate", "dist-upgrade"]))
    names = sorted({update.name for update in found if update.installed and update.candidate})
    return with_passed_over(found, apt_cache(["madison", "--", *names])) if names else found


def simulated(text: str) -> list[Update]:
    """Return what a simulated upgrade would change, sorted by name.

    Rows are `Inst NAME [OLD] (NEW ORIGINS [ARCH])` and `Remv NAME [OLD]`; an origin is LABEL:VERSION/SUITE,
    as the Release file has them.
    """
    found = []
    for row in text.splitlines():
        if match := _INST.match(row):
            found.append(
                Update(
                    name=match["name"], arch=match["arch"], installed=match["old"] or "",
                    candidate=match["new"], origin=match["from"], security=is_security(match["from"]),
                )
            )  # fmt: skip
        elif match := _REMOVED.match(row):
            found.append(Update(name=match["name"], arch=match["arch"] or "", installed=match["old"]))
    return sorted(found, key=lambda update: (update.name, update.arch))


def is_security(origin: str) -> bool:
    """Say whether one of the origins of a package, or an address of its repository, is of security updates.

    Debian's are labelled Debian-Security, of suites such as stable-security; Ubuntu's suites end so too.
    """
    return any("security" in word for word in re.split(r"[\s:/,]+", origin.lower()))


def with_passed_over(updates: Iterable[Update], madison: str) -> list[Update]:
    """Mark also those updates as security ones that pass over a version of a security repository.

    madison: rows `NAME | VERSION | ADDRESS SUITE/COMPONENT ARCH Packages` of all versions that there are. At
    a point release the fixes come with the main archive, and the last one may be from there.
    """
    fixes: dict[str, list[str]] = {}
    for row in madison.splitlines():
        words = [word.strip() for word in row.split("|")]
        if len(words) == 3 and is_security(words[2]):
            fixes.setdefault(words[0], []).append(words[1])
    found = []
    for update in updates:
        passed = any(
            newer(version, update.installed) and not newer(version, update.candidate)
            for version in fixes.get(update.name, ())
            if update.installed and update.candidate
        )
        found.append(replace(update, security=True) if passed else update)
    return found
