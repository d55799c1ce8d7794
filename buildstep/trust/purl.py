"""Package URLs: one name for a package, wherever it is talked of.

https://github.com/package-url/purl-spec: `pkg:TYPE/NAMESPACE/NAME@VERSION?QUALIFIERS`, percent-encoded but
for letters, digits, `.-_~` and the colon; qualifiers sorted by key, empty ones left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from buildstep.trust.inventory.model import Distro

_LONGEST = 4000

Kept = str | None


class PackageUrl(NamedTuple):
    """A package URL (package-url/purl-spec). namespace: with slashes where it has parts; all are decoded."""

    type: str
    namespace: str
    name: str
    version: str
    qualifiers: Mapping[str, str]

    def fits(self, other: PackageUrl) -> bool:
        """Tell whether this one, as a statement has it, is about another: what it leaves out fits any."""
        return (
            (self.type, self.namespace, self.name) == (other.type, other.namespace, other.name)
            and self.version in ("", other.version)
            and all(other.qualifiers.get(key) == value for key, value in self.qualifiers.items())
        )


def parse(text: object) -> PackageUrl | None:
    """Return what a text says; None for no package URL."""
    if not isinstance(text, str) or not text.startswith("pkg:") or len(text) > _LONGEST:
        return None
    rest, _, _subpath = text.removeprefix("pkg:").partition("#")
    rest, _, query = rest.partition("?")
    kind, slash, path = rest.lstrip("/").partition("/")
    path, name = path.rstrip("/").rpartition("/")[::2]
    name, _, version = name.partition("@")
    if not slash or not name:
        return None
    try:
        qualifiers = {
            key.lower(): value for key, value in parse_qsl(query.replace("+", "%2B"), max_num_fields=50)
        }
    except ValueError:
        return None
    return PackageUrl(kind.lower(), unquote(path).strip("/"), unquote(name), unquote(version), qualifiers)


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


def source_purl(binary: str, name: str, version: str) -> str:
    """Return the package URL of a source package, by that of a binary package of it.

    Empty for types that have no source packages.
    """
    found = parse(binary)
    if found is None or found.type != "deb":
        return ""
    return purl("deb", found.namespace, name, version, arch="source", distro=found.qualifiers.get("distro"))


def image_purl(name: str, digest: str) -> str:
    """Return the package URL of an image by the digest of its manifest; empty without one."""
    if not digest.startswith("sha256:"):
        return ""
    return purl("oci", "", name.rpartition("/")[2].lower() or "image", digest)
