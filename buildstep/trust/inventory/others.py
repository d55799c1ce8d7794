"""Databases of packages that are not read: where one is in an image, the inventory says so."""

from __future__ import annotations

import re

from buildstep.system.text import shown_path
from buildstep.trust.inventory.interface import Database, Reading

_MOST_NAMED = 3
_KNOWN = {
    "packages of pacman": rb"var/lib/pacman/local/[^/]+/desc",
    "packages of opkg": rb"(?:usr|var)/lib/opkg/(?:status|lists)",
    "packages of Nix": rb"nix/var/nix/db/db\.sqlite",
    "packages of Conda": rb"(?:.*/)?conda-meta/[^/]+\.json",
    "packages of Ruby": rb"(?:.*/)?specifications/(?:[^/]+/)?[^/]+\.gemspec",
    "packages of PHP": rb"(?:.*/)?vendor/composer/installed\.json",
    "packages of .NET": rb"(?:.*/)?[^/]+\.deps\.json",
    "archives of Java": rb"(?:.*/)?[^/]+\.[jwe]ar",
    "archives of Python": rb"(?:.*/)?[^/]+\.(?:egg|whl|pyz)",
    "images of snap, flatpak or AppImage": rb"(?:var/lib/(?:snapd/snaps|flatpak)/.*|.*\.AppImage)",
}
_ENDS = (
    b"/desc", b"/status", b"/lists", b"db.sqlite", b".json", b".gemspec", b".jar", b".war", b".ear", b".egg",
    b".whl", b".pyz", b".snap", b".AppImage", b"/.changed",
)  # fmt: skip
"""How the names of all of these end: a look at the end is quicker than ten patterns."""


def read(reading: Reading) -> None:
    """Tell of each kind of package that is there and not read, and is no part of a package that is known."""
    patterns = {what: re.compile(rb"(?:root/)?" + text, re.DOTALL) for what, text in _KNOWN.items()}
    found: dict[str, list[bytes]] = {}
    for path in reading.paths:
        if not path.endswith(_ENDS) or path in reading.owned or reading.entries[path].kind != "f":
            continue
        for what, pattern in patterns.items():
            if pattern.fullmatch(path):
                found.setdefault(what, []).append(path)
    for what, paths in found.items():
        named = ", ".join(shown_path(path) for path in paths[:_MOST_NAMED])
        more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
        reading.tell(f"{what} are not read: {named}{more}")


DATABASE = Database(name="others", what="what is there and not read", read=read)
