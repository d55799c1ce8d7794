"""Why pkgsrc's tools fail, read from what they print, and what to do about each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from buildstep.rootfs.installers.common import Cause


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One way in which pkg_add says no.

    pattern: over its output; the group `package`, where there is one, is the package at fault.
    hint: what to do, a template of the pattern's groups and of `conf`, the path of pkg_install.conf.
    """

    pattern: str
    hint: str


# The messages are those of pkg_install's pkg_add; pkg_add(1) and pkg_install.conf(5) tell what each is about.
# A package for another release of the same system is only warned of: the two lines about a platform are read
# together.
REFUSALS = (
    Refusal(
        pattern=r"package [`'](?P<package>[^']+)' was built for a platform:\n"
        r"(?:\S+: )?(?P<of>\S+/\S+) \S+ \(pkg\) vs\. (?!(?P=of) )(?P<here>\S+/\S+) \S+ \(this host\)",
        hint="{package} is for {of} and the image's pkg_add is for {here}: let PKG_PATH in {conf} and pkgin's"
        " repositories.conf name the repository for {here}, or take a base image for {of}",
    ),
    Refusal(
        pattern=r"License [`'](?P<license>[^']+)' of package [`'](?P<package>[^']+)' is not acceptable",
        hint="if you accept the license, add it to the image's {conf}, in the base image or the proto"
        " directory: ACCEPTABLE_LICENSES={license}; or for this build alone to installer_options.env:"
        " PKGSRC_ACCEPTABLE_LICENSES={license}",
    ),
    Refusal(
        pattern=r"No LICENSE set for package [`'](?P<package>[^']+)'",
        hint="CHECK_LICENSE=always in the image's {conf} refuses packages that name no license; with"
        " CHECK_LICENSE=yes they are taken",
    ),
    Refusal(
        pattern=r"Invalid LICENSE for package [`'](?P<package>[^']+)'",
        hint="the package's license is not written as pkg_add reads it: build the package anew, or set"
        " CHECK_LICENSE=no in the image's {conf}",
    ),
    Refusal(
        pattern=r"No valid signature found(?:, rejected| for (?P<package>\S+)\.$)",
        hint="VERIFIED_INSTALLATION in the image's {conf} asks for signed packages: is the repository's key"
        " in the image, and does the repository sign what it offers?",
    ),
    Refusal(
        pattern=r"package [`'](?P<package>[^']+)' was built with a newer pkg_install version",
        hint="the repository is of a newer pkgsrc release than the base image: take a repository of the"
        " image's release, or a newer base image",
    ),
    Refusal(
        pattern=r"Missing required library: (?P<library>\S+)",
        hint="the package needs {library} of the system it was built on, which the image lacks: take a"
        " repository of the image's release, or a base image that has it",
    ),
    Refusal(
        pattern=r"Package [`'](?P<package>[^']+)' conflicts with [`'][^']+', and [`'](?P<other>[^']+)'"
        r" is installed",
        hint="{package} and {other} cannot be in one image: leave one of them out, or take a base image"
        " without {other}",
    ),
    Refusal(
        pattern=r"Installed package [`'](?P<other>[^']+)' conflicts with [`'][^']+' when trying to install"
        r" [`'](?P<package>[^']+)'",
        hint="{package} and {other} cannot be in one image: leave one of them out, or take a base image"
        " without {other}",
    ),
    Refusal(
        pattern=r"Conflicting PLIST with (?P<other>\S+): (?P<file>.+)$",
        hint="{file} belongs to {other} in the image: leave one of the two packages out",
    ),
    Refusal(
        pattern=r"Dependency of (?P<user>\S+) fulfilled by (?P<old>\S+), but not by (?P<package>\S+)",
        hint="{user} in the image works with {old} only: upgrade it in the same build, with --upgrade-first"
        " or by naming it before {package} among the packages",
    ),
    Refusal(
        pattern=r"Package (?P<package>\S+) has (?:an? )?.*? vulnerability, see (?P<url>\S+)",
        hint="CHECK_VULNERABILITIES in the image's {conf} keeps {package} out; read {url}, then take a"
        " package without the fault, or set it to never",
    ),
    Refusal(
        pattern=r"Premature end of archive|Cannot read from archive",
        hint="a package's file is damaged, or is still being uploaded: look at the repository, then build"
        " again",
    ),
    Refusal(
        pattern=r"download mismatch: \S*?(?P<package>[^/\s]+)\.t[a-z]z$",
        hint="the repository changed while it was read, or its summary is not of its packages: build again",
    ),
    Refusal(
        pattern=r"package [`'](?P<package>[^']+)' already has a temporary update directory"
        r" [`'](?P<folder>[^']+)'",
        hint="an update was broken off when the base image was made: remove {folder} from it",
    ),
    Refusal(
        pattern=r"no pkg found for '(?P<package>[^']+)'",
        hint="is the name right (`pkgin search` finds names), and does PKG_PATH, in installer_options.env or"
        " in the image's {conf}, lead to the repository?",
    ),
)

CULPRITS = (
    *(refusal.pattern for refusal in REFUSALS if "(?P<package>" in refusal.pattern),
    r"[Cc]an't install dependency (?P<package>\S+?),?$",
)
"""Patterns for `common.failures`: which package it was."""


def advice(output: str, prefix: str) -> str:
    """Return what to do about the first refusal in pkg_add's output; empty where there is none.

    prefix: where pkgsrc is in the image; its pkg_install.conf is named.
    """
    found = [
        (match.start(), refusal.hint, match)
        for refusal in REFUSALS
        if (match := re.search(refusal.pattern, output, re.MULTILINE))
    ]
    if not found:
        return ""
    _, hint, match = min(found, key=lambda row: row[0])
    return hint.format(conf=f"{prefix}/etc/pkg_install.conf", **match.groupdict())


def upgrade_failed(log: str) -> bool:
    """Whether pkgin's log of an upgrade tells of a failure. It is counted as pkgin counts: a package that an
    earlier one has brought along already is none."""
    failed = re.findall(r"^pkg_add: \d+ package additions? failed$", log, re.MULTILINE)
    there = re.findall(r"^pkg_add: A different version of .* is already installed: ", log, re.MULTILINE)
    return len(failed) > len(there)


_NOT_FETCHED = re.compile(
    r"Could not fetch (?P<what>vulnerability file|\S+?)(?:: (?P<why>.+))?$", re.MULTILINE
)
"""The words of pkgin and pkg_admin, and what libfetch says of it; older versions leave that out."""


def unfetched(output: str, prefix: str) -> Cause | None:
    """Return why pkgin could not fetch a repository's summary, or pkg_admin the list of vulnerabilities; None
    where that was not what failed."""
    match = _NOT_FETCHED.search(output)
    if match is None:
        return None
    why, what, conf = match["why"] or "", match["what"], f"{prefix}/etc/pkgin/repositories.conf"
    mend, source = f"let the image's {conf} name a repository of its release and platform", "the repository"
    if " " in what:
        what, conf = "the vulnerability list", f"{prefix}/etc/pkg_install.conf"
        mend, source = f"let PKGVULNURL in the image's {conf} name a list that is there", "its server"
    text = f"{what} cannot be fetched{f' ({why})' if why else ''}"
    if re.search("Not Found|No such file", why):
        return Cause(text=text, hint=mend)
    if re.search("certificate|SSL|Authentication error", why, re.IGNORECASE):
        hint = f"is the certificate's authority in the image (mozilla-rootcerts), and its name in {conf}?"
        return Cause(text=text, hint=hint)
    if re.search("Forbidden|Unauthorized|Authentication required", why, re.IGNORECASE):
        return Cause(text=text, hint="the server, or a proxy, refuses it")
    hint = f"is {source} reachable from this CI host? The image's {conf} names it"
    return Cause(text=text, hint=hint, retryable=True)
