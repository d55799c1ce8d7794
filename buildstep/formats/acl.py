"""Convert POSIX ACLs between text and extended attributes (acl(5), linux/posix_acl_xattr.h)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# acl(5) and linux/posix_acl_xattr.h: a version, then (tag, permissions, id) of each entry, little endian.
_ACL_VERSION = struct.pack("<I", 2)
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_NO_ID = 0xFFFFFFFF
_ACL_TAGS = {
    0x01: b"user",
    0x02: b"user",
    0x04: b"group",
    0x08: b"group",
    0x10: b"mask",
    0x20: b"other",
}
_ACL_NAMED = {0x02: b"user", 0x08: b"group"}


def acl_to_text(value: bytes) -> bytes | None:
    """Return the text of a posix_acl extended attribute, ids as numbers; None when it is not one.

    A named entry ends with its id once more, as star writes it: otherwise libarchive looks the name up. GNU
    tar leaves the fourth field out.
    """
    if value[:4] != _ACL_VERSION or (len(value) - 4) % _ACL_ENTRY.size:
        return None
    rows = []
    for tag, bits, ident in _ACL_ENTRY.iter_unpack(value[4:]):
        if tag not in _ACL_TAGS or bits > 7 or (tag in _ACL_NAMED) == (ident == _ACL_NO_ID):
            return None
        letters = bytes(letter if bits & bit else 0x2D for letter, bit in zip(b"rwx", (4, 2, 1), strict=True))
        if tag in _ACL_NAMED:
            rows.append(b"%b:%d:%b:%d" % (_ACL_TAGS[tag], ident, letters, ident))
        else:
            rows.append(b"%b::%b" % (_ACL_TAGS[tag], letters))
    return b",".join(rows)


def acl_mode(value: bytes) -> int | None:
    """Return the nine permission bits of a file with this access ACL; None when it is not an ACL."""
    if acl_to_text(value) is None:
        return None
    bits: dict[int, int] = {tag: perm for tag, perm, _ in _ACL_ENTRY.iter_unpack(value[4:])}
    # With a mask the group bits of the mode are the mask (acl(5), "correspondence").
    return bits.get(0x01, 0) << 6 | bits.get(0x10, bits.get(0x04, 0)) << 3 | bits.get(0x20, 0)


def with_mode(value: bytes, mode: int) -> bytes:
    """Return an access ACL after a chmod(2): its owner, others, and the mask or else the group change.

    What is no ACL stays as it is.
    """
    if acl_to_text(value) is None:
        return value
    rows = list(_ACL_ENTRY.iter_unpack(value[4:]))
    middle = 0x10 if any(tag == 0x10 for tag, _, _ in rows) else 0x04
    new = {0x01: mode >> 6 & 7, middle: mode >> 3 & 7, 0x20: mode & 7}
    return value[:4] + b"".join(_ACL_ENTRY.pack(tag, new.get(tag, bits), ident) for tag, bits, ident in rows)


@dataclass(frozen=True, slots=True)
class AclText:
    """An ACL as SCHILY.acl text has it. Use `parse_acl`."""

    _rows: tuple[tuple[str, bytes, bytes, bytes], ...]

    @property
    def names(self) -> set[tuple[str, str]]:
        """Whom it names without a number, as GNU tar writes it: (`user` or `group`, name)."""
        return {
            (kind, os.fsdecode(who))
            for kind, who, number, _ in self._rows
            if kind in ("user", "group") and who and not number.isdigit()
        }

    def value(self, numbers: Mapping[tuple[str, str], int] | None = None) -> bytes:
        """Return the extended attribute's value. Raises ValueError for a number that no ACL can have.

        numbers: those of `names`.
        """
        found = []
        for kind, who, number, letters in self._rows:
            ident = _ACL_NO_ID
            if kind in ("user", "group") and who:
                ident = int(number) if number.isdigit() else (numbers or {})[kind, os.fsdecode(who)]
                if ident >= _ACL_NO_ID:
                    raise ValueError(f"the ACL entry of the {kind} {ident}, a number that is too large")
            named = ident != _ACL_NO_ID
            tag = min(t for t, k in _ACL_TAGS.items() if k.decode() == kind and (t in _ACL_NAMED) == named)
            bits = sum(bit for letter, bit in ((b"r", 4), (b"w", 2), (b"x", 1)) if letter in letters)
            found.append((tag, ident, _ACL_ENTRY.pack(tag, bits, ident)))
        return _ACL_VERSION + b"".join(packed for _, _, packed in sorted(found))


def parse_acl(text: bytes) -> AclText:
    """Return the ACL of SCHILY.acl text. Raises ValueError for any other text."""
    return AclText(tuple(_rows(text)))


def _rows(text: bytes) -> Iterator[tuple[str, bytes, bytes, bytes]]:
    """Yield kind, qualifier, number and permissions of each entry. Raises ValueError."""
    for row in text.replace(b"\n", b",").split(b","):
        fields = [field.strip() for field in row.partition(b"#")[0].split(b":")]
        if fields == [b""]:
            continue
        if len(fields) not in (3, 4) or fields[0] not in (b"user", b"group", b"mask", b"other"):
            raise ValueError(f"the ACL entry {row!r} is not understood")
        kind, who, letters = fields[:3]
        # With a fourth field `who` may be a name that is not known here.
        yield kind.decode(), who, fields[3] if len(fields) == 4 else who, letters
