"""Where advisories belong: a release of a system, or a language's packages; and where a package looks for
them.

A scope is `debian/bookworm`, `alpine/v3.19`, `ubuntu/22.04`, `pypi`, `npm`, `go`, `crates.io` or `pkgsrc`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from buildstep.trust.inventory.model import Component, Distro

DEBIAN: Final = {
    "8": "jessie", "9": "stretch", "10": "buster", "11": "bullseye", "12": "bookworm", "13": "trixie",
    "14": "forky", "15": "duke",
}  # fmt: skip
"""Numbers of Debian's releases. The tracker has names; OSV, and images of a release, have numbers."""

_NUMBERS = {name: number for number, name in DEBIAN.items()}


class Ecosystem(NamedTuple):
    """An ecosystem of OSV that is understood: the order of its versions."""

    order: str


ECOSYSTEMS: Final = {
    "Debian": Ecosystem("dpkg"),
    "Ubuntu": Ecosystem("dpkg"),
    "Alpine": Ecosystem("apk"),
    "PyPI": Ecosystem("pep440"),
    "npm": Ecosystem("semver"),
    "Go": Ecosystem("semver"),
    "crates.io": Ecosystem("semver"),
}

LANGUAGES: Final = {"pypi": "pypi", "npm": "npm", "golang": "go", "cargo": "crates.io"}
"""Kinds of components whose advisories are of no system, and their scopes."""

SYSTEMS: Final = frozenset({"deb", "apk", "rpm", "pkgsrc"})
"""Kinds of components that make up a system: without a feed for them nothing is known of an image."""


def of_ecosystem(text: str) -> str:
    """Return the scope of an ecosystem of OSV, such as `Debian:12`; empty for one that is not understood."""
    base, _, release = text.partition(":")
    if base not in ECOSYSTEMS:
        return ""
    match base:
        case "Debian":
            return f"debian/{DEBIAN.get(release, release)}" if release else "debian"
        case "Alpine":
            return f"alpine/{release}" if release else "alpine"
        case "Ubuntu":
            found = re.fullmatch(r"(\d\d\.\d\d)(:LTS)?", release)
            return f"ubuntu/{found[1]}" if found else ""
        case _:
            return base.lower()


def of_release(name: str) -> str:
    """Return the scope of a release of Debian, by its codename."""
    return f"debian/{DEBIAN.get(name, name)}"


def of_system(distro: Distro) -> str:
    """Return the scope of an image's system; empty for one of which no feed tells."""
    version = distro.version
    match distro.id:
        case "debian":
            release = distro.codename or DEBIAN.get(version.partition(".")[0], version.partition(".")[0])
            return f"debian/{release}" if release else ""
        case "ubuntu":
            return f"ubuntu/{version}" if version else ""
        case "alpine":
            if "_" in version or version == "edge":
                return "alpine/edge"
            found = re.match(r"v?(\d+\.\d+)", version)
            return f"alpine/v{found[1]}" if found else ""
        case _:
            return ""


def of_component(component: Component, system: str) -> str:
    """Return where to look for a component; empty where no feed tells of its kind."""
    if component.kind in ("deb", "apk"):
        return system
    return "pkgsrc" if component.kind == "pkgsrc" else LANGUAGES.get(component.kind, "")


def normal_name(scope: str, name: str) -> str:
    """Return a package's name as feeds and images are compared by it. Of Python's, `Foo.Bar` is `foo-bar`;
    those of Go are in small letters in package URLs, and not in feeds."""
    match scope:
        case "pypi":
            return re.sub(r"[-_.]+", "-", name).lower()
        case "go":
            return name.lower()
        case _:
            return name


def number_of(codename: str) -> str:
    """Return the number of a release of Debian, empty for one without."""
    return _NUMBERS.get(codename, "")
