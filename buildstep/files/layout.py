"""Where things lie in a store. The only module that makes or takes apart the names in it.

buildstep-store.json        what the store is: its format and how it is written to
objects/ab/<62 hex>         a content, by its SHA-256: as it is, with `.zst` compressed,
                            with `.chunks` as the list of the chunks that it is made of
packs/ab/<62 hex>.pack      many small contents; named by the SHA-256 of the file
lists/ab/<62 hex>.list      a file list, zstd; named by the SHA-256 of what is compressed
refs/<name>                 a list that somebody wants kept, by a name that can change
leases/<id>                 somebody who writes or reads at the moment
catalogue                   the packs that there are
gc/condemned                what the next garbage collection will delete
quarantine/<name>           what was found damaged
links/ab/<62 hex>           a file that checkouts share; see `checkout_farm`
tmp/                        what is being written, and locks
"""

from __future__ import annotations

import re
from typing import NamedTuple

from buildstep.errors import UsageError

MARKER = "buildstep-store.json"
CATALOGUE = "catalogue"
CONDEMNED = "gc/condemned"
TEMPORARY = "tmp/"
OBJECTS, PACKS, LISTS, REFS, LEASES, QUARANTINE = (
    "objects/", "packs/", "lists/", "refs/", "leases/", "quarantine/",
)  # fmt: skip

PLAIN, ZSTD, CHUNKS = "", ".zst", ".chunks"
FORMS = (ZSTD, PLAIN, CHUNKS)
"""How an object can be stored, as the end of its name says it; the most frequent first."""

LINKS = "links/"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAMED = re.compile(r"(objects|packs|lists)/([0-9a-f]{2})/([0-9a-f]{62})((?:\.[a-z]+)?)")
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_ENDS = {"objects": FORMS, "packs": (".pack",), "lists": (".list",)}
_LONGEST_REF = 200


class Name(NamedTuple):
    """A name taken apart. kind: objects, packs or lists; end: such as `.zst`."""

    kind: str
    digest: str
    end: str


def is_digest(text: str) -> bool:
    """Tell whether this is a hex SHA-256."""
    return _DIGEST.fullmatch(text) is not None


def _named(kind: str, digest: str, end: str) -> str:
    assert is_digest(digest), digest
    return f"{kind}/{digest[:2]}/{digest[2:]}{end}"


def object_name(digest: str, form: str = PLAIN) -> str:
    return _named("objects", digest, form)


def pack_name(digest: str) -> str:
    return _named("packs", digest, ".pack")


def list_name(digest: str) -> str:
    return _named("lists", digest, ".list")


def link_name(digest: str) -> str:
    return _named("links", digest, "")


def parse(name: str) -> Name | None:
    """Take the name of an object, a pack or a list apart; None for any other."""
    match = _NAMED.fullmatch(name)
    if match is None or match[4] not in _ENDS[match[1]]:
        return None
    return Name(match[1], match[2] + match[3], match[4])


def ref_name(ref: str) -> str:
    """Return the name of a ref, such as `web/1.2.0`. Raises UsageError for what is none."""
    if _REF.fullmatch(ref) is None or len(ref) > _LONGEST_REF or is_digest(ref):
        raise UsageError(
            f"{ref!r} is not the name of a ref",
            hint="letters, digits and . _ -, in parts that begin with a letter or digit, with / between them",
        )
    # A file of a directory store cannot be a directory as well: `web` and `web/1.2.0` can both be refs.
    return REFS + ref.replace("/", "~")


def ref_of(name: str) -> str:
    """Return the ref of a name below refs/."""
    return name.removeprefix(REFS).replace("~", "/")
