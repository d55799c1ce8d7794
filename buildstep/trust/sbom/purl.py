"""Package URLs that follow from others: of source packages and of images.

Source: package-url/purl-spec, types/deb, types/oci. A qualifier's order is that of its name.
"""

from __future__ import annotations

from urllib.parse import quote

_PLAIN = ":~"
"""What stands as it is in names and versions, besides letters, digits and `.-_`."""


def source_purl(binary: str, name: str, version: str) -> str:
    """Return the package URL of a source package, by that of a binary package of it.

    Empty for types that have no source packages.
    """
    head, _, qualifiers = binary.partition("?")
    path = head.partition("@")[0]
    if not path.startswith("pkg:deb/"):
        return ""
    rows = [row for row in qualifiers.split("&") if row.startswith("distro=")]
    folder = path.rpartition("/")[0]
    words = [quote(word, safe=_PLAIN) for word in (name, version)]
    return f"{folder}/{'@'.join(words)}?{'&'.join(['arch=source', *rows])}"


def image_purl(name: str, digest: str) -> str:
    """Return the package URL of an image by the digest of its manifest; empty without one."""
    if not digest.startswith("sha256:"):
        return ""
    last = name.rpartition("/")[2].lower() or "image"
    return f"pkg:oci/{quote(last, safe=_PLAIN)}@{quote(digest, safe=_PLAIN)}"
