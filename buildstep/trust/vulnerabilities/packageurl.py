"""Package URLs as others write them, taken apart and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

_LONGEST = 4000


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
