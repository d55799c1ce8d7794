"""Package URLs: one name for a package, wherever it is talked of.

https://github.com/package-url/purl-spec: `pkg:TYPE/NAMESPACE/NAME@VERSION?QUALIFIERS`, percent-encoded but
for letters, digits, `.-_~` and the colon; qualifiers sorted by key, empty ones left out.
"""

from __future__ import annotations

from urllib.parse import quote

from buildstep.trust.inventory.model import Distro

Kept = str | None


def purl(kind: str, namespace: str, name: str, version: str = "", **qualifiers: Kept) -> str:
    """Return the package URL of a package. namespace: with slashes where it has parts, empty for none."""
    parts = [_quoted(part) for part in (*namespace.split("/"), name) if part]
    found = f"pkg:{kind}/{'/'.join(parts)}"
    if version:
        found += f"@{_quoted(version)}"
    pairs = [f"{key}={quote(value, safe=':/-._~')}" for key, value in sorted(qualifiers.items()) if value]
    return f"{found}?{'&'.join(pairs)}" if pairs else found


def _quoted(text: str) -> str:
    return quote(text, safe=":-._~")


def distro_text(distro: Distro) -> str:
    """Return the qualifier that tells a scanner whose advisories count: `debian-12`. A release in the making
    has no number, and is named."""
    return "-".join(part for part in (distro.id, distro.version or distro.codename) if part)


def upstream(name: str, version: str, source: str, source_version: str) -> str:
    """Return the qualifier with the source package, by which advisories are written: not part of the
    specification, and what scanners go by. Empty where it is the package itself."""
    if (source or name) == name and (source_version or version) == version:
        return ""
    return source if (source_version or version) == version else f"{source}@{source_version}"
