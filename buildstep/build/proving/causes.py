"""Why a file differs between two builds: by what it is called, by what it is, and by what differs in it."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase

from buildstep.build.proving import archives
from buildstep.build.proving.times import TOKEN, is_time, is_time_in_bytes
from buildstep.build.proving.world import World
from buildstep.rootfs.entropy import ENTROPY


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """A class of differences, what it is seen by, and what removes it."""

    kind: str
    seen: str = ""
    fix: str = ""


UNKNOWN = Cause(kind="unknown")

FIXES = {
    "time stamp": "let it take SOURCE_DATE_EPOCH for the time, which commands and scripts are given, or leave"
    " the time out",
    "file time": "set SOURCE_DATE_EPOCH: no file in the image is younger then",
    "build path": "let it name paths of the image, or relative ones",
    "host name": "leave the name out, or write it when the image starts",
    "kernel": "leave the release of the kernel out, or ask for it when the image starts",
    "time zone": "set TZ=UTC where the time is written (`date -u`)",
    "locale": "set LC_ALL=C.UTF-8 where it runs (build.run_options.env)",
    "umask": "set the mode where it is made (`install -m`, `umask 022`), or in build.modes",
    "directory order": "sort what is listed (`LC_ALL=C sort`, `find ... | sort`, `tar --sort=name`)",
    "processors": "set the number (`make -j4`), and leave it out of what is written",
    "environment": "leave HOME and the user's name out of what is written",
    "order": "sort it: what runs in parallel ends in any order, and hashes have seeds (PYTHONHASHSEED=0)",
    "random": "make it when the image starts, or of something that does not change",
    "key": "make it when the image starts, and remove it here",
    "byte code": "`python3 -m compileall --invalidation-mode unchecked-hash`, SOURCE_DATE_EPOCH, or the"
    " cleaner python-bytecode",
    "account order": "give the users and groups numbers of their own (build.users, build.groups)",
    "cache file": "remove it with a cleaner; it is made again when it is needed",
    "log": "remove it with the cleaner logs",
}
"""What removes differences of a class, where nothing better is known."""

KNOWN = (
    ("*.pyc", "byte code", ""),
    ("*.pyo", "byte code", ""),
    ("etc/machine-id", "random", "the cleaner machine-id"),
    ("var/lib/dbus/machine-id", "random", "the cleaner machine-id"),
    ("var/lib/systemd/random-seed", "random", "the cleaner random-seed"),
    ("etc/ssh/ssh_host_*", "key", "the cleaner ssh-host-keys, where the first start makes new ones"),
    ("etc/ssl/certs/" + "[0-9a-f]" * 8 + ".[0-9]", "key", "what removes the certificate that it is named by"),
    ("etc/shadow-", "time stamp", "the cleaner backups; with SOURCE_DATE_EPOCH the day is that one's"),
    ("var/cache/ldconfig/aux-cache", "cache file", "the cleaner ldconfig-cache"),
    ("var/cache/man/*", "cache file", "the cleaner man-cache"),
    ("var/cache/fontconfig/*", "cache file", "a command at the end: `rm -rf /var/cache/fontconfig/*`"),
    ("var/cache/debconf/*-old", "cache file", "the cleaner backups, or a command that removes it"),
    ("usr/share/icons/*/icon-theme.cache", "cache file", "SOURCE_DATE_EPOCH, or a command that removes it"),
    ("var/lib/apt/lists/*", "cache file", "the cleaner package-cache"),
    ("var/cache/apt/*", "cache file", "the cleaner package-cache"),
    ("var/log/*", "log", ""),
    ("*.log", "log", "remove it in the command that writes it (the cleaner logs empties those of /var/log)"),
)
"""Patterns of paths, the class of their differences, and what removes them, empty for what does so for all of
that class."""

_KEY = re.compile(
    rb"-----BEGIN [A-Z0-9 ]*(PRIVATE KEY|CERTIFICATE|PGP)|^(ssh-(rsa|ed25519)|ecdsa-sha2)", re.MULTILINE
)
_UUID = re.compile(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_RANDOM_WORD = re.compile(r"[0-9a-fA-F]{6,}|[A-Za-z0-9+/_=-]{6,}|\d+")
_ACCOUNTS = frozenset(("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid"))
_LONGEST = 1 << 20
_BITS = 7.2
"""Bits of entropy in a byte from which on bytes look random."""
_DEPTH = 3
_MANY = 400


def explain(path: str, first: bytes, second: bytes, worlds: tuple[World, World], depth: int = 0) -> Cause:
    """Return why two contents of a file differ. path: in the image, without a slash in front."""
    if depth == 0 and (found := _by_name(path, first, second, worlds)):
        return found
    if (both := archives.opened(first, second)) is not None and depth < _DEPTH:
        return _in_archive(path, both, worlds, depth)
    if _KEY.search(first) and _KEY.search(second):
        return Cause(kind="key", seen="a key or a certificate", fix=FIXES["key"])
    try:
        texts = first.decode(), second.decode()
    except UnicodeDecodeError:
        return _in_bytes(first, second, worlds)
    if "\0" in texts[0]:
        return _in_bytes(first, second, worlds)
    return in_text(texts, worlds)


def _by_name(path: str, first: bytes, second: bytes, worlds: tuple[World, World]) -> Cause | None:
    if path in _ACCOUNTS:
        return _accounts(first.decode(errors="replace"), second.decode(errors="replace"), worlds)
    return by_path(path)


def by_path(path: str) -> Cause | None:
    """Return why a file differs that is known to, by its path; None for any other."""
    for pattern, kind, fix in KNOWN:
        if fnmatchcase(path, pattern):
            return Cause(kind=kind, seen=f"it is {_called(kind)}", fix=fix or FIXES[kind])
    for pattern, why in ENTROPY.items():
        if fnmatchcase(f"/{path}", pattern):
            kind = "key" if "key" in why or "certificate" in why else "random"
            kind = "cache file" if "cache" in why or "index" in why else kind
            cleaner = re.search(r"the cleaner [a-z-]+", why)
            return Cause(kind=kind, seen=why, fix=cleaner[0] if cleaner else FIXES[kind])
    return None


def _called(kind: str) -> str:
    return {"byte code": "compiled Python", "log": "a log", "cache file": "a cache", "key": "a key"}.get(
        kind, "known to differ"
    )


def _accounts(first: str, second: str, worlds: tuple[World, World]) -> Cause:
    rows = [sorted(text.splitlines()) for text in (first, second)]
    if rows[0] == rows[1]:
        return Cause(
            kind="account order", seen="the same accounts in another order", fix=FIXES["account order"]
        )
    if [row.partition(":")[0] for row in rows[0]] == [row.partition(":")[0] for row in rows[1]]:
        found = in_text((first, second), worlds)
        if found.kind == "time stamp" or (first.count(":") == second.count(":") and "shadow" in found.seen):
            return found
        return (
            found
            if found.kind == "time stamp"
            else Cause(kind="account order", seen="accounts have other numbers", fix=FIXES["account order"])
        )
    return Cause(kind="random", seen="there are other accounts", fix=FIXES["account order"])


def _in_archive(path: str, both: archives.Opened, worlds: tuple[World, World], depth: int) -> Cause:
    for name in sorted(both.inner[0].keys() & both.inner[1].keys()):
        first, second = both.inner[0][name], both.inner[1][name]
        if first != second:
            found = explain(name or path, first, second, worlds, depth + 1)
            where = f"{name} in the {both.form} archive" if name else f"in the {both.form} file"
            return Cause(kind=found.kind, seen=f"{where}: {found.seen}", fix=found.fix)
    if both.note:
        return Cause(kind="archive metadata", seen=f"{both.form}: {both.note}", fix=both.fix)
    if not both.ordered:
        fix = FIXES["directory order"]
        return Cause(kind="directory order", seen=f"{both.form}: its members come in another order", fix=fix)
    return Cause(kind="archive metadata", seen=f"{both.form}: how it is compressed", fix=both.fix)


def _in_bytes(first: bytes, second: bytes, worlds: tuple[World, World]) -> Cause:
    if is_time_in_bytes(first, second, worlds):
        return Cause(kind="time stamp", seen="a number that is the time", fix=FIXES["time stamp"])
    for kind, marks in _markers(worlds).items():
        if any(one.encode() in first and two.encode() in second for one, two in marks if len(one) > 3):
            return Cause(kind=kind, seen="it is in the bytes", fix=FIXES[kind])
    if sorted(first) == sorted(second) and len(first) > 8:
        return Cause(kind="order", seen="the same bytes in another order", fix=FIXES["order"])
    if _entropy(first) > _bits(first) and _entropy(second) > _bits(second):
        return Cause(kind="random", seen="bytes that look random", fix=FIXES["random"])
    return UNKNOWN


def _bits(data: bytes) -> float:
    """Return the bits of entropy that random bytes of this length have at least, as they are counted."""
    return min(_BITS, math.log2(max(len(data), 2)) - 0.8)


def _entropy(data: bytes) -> float:
    counts, total = Counter(data[:_LONGEST]), min(len(data), _LONGEST)
    return -sum(n / total * math.log2(n / total) for n in counts.values()) if total else 0.0


def in_text(texts: tuple[str, str], worlds: tuple[World, World]) -> Cause:
    """Return why two texts differ."""
    if max(map(len, texts)) > _LONGEST:
        return UNKNOWN
    if texts[0] != texts[1] and any(
        sorted(split(texts[0])) == sorted(split(texts[1])) for split in (str.splitlines, str.split)
    ):
        return Cause(kind="order", seen="the same lines in another order", fix=FIXES["order"])
    for kind, marks in _markers(worlds).items():
        for one, two in marks:
            if _put(texts[0], one) == _put(texts[1], two) and one in texts[0]:
                return Cause(kind=kind, seen=f"{one} and {two}", fix=FIXES[kind])
    pairs = _pairs(*texts)
    if pairs and is_time(pairs, texts, worlds):
        words = [" ".join(pair[at] for pair in pairs[:3]) for at in (0, 1)]
        return Cause(kind="time stamp", seen=" and ".join(words), fix=FIXES["time stamp"])
    for kind, mark in worlds[1].unmistakable:
        if mark in texts[1] and mark not in texts[0]:
            return Cause(kind=kind, seen=f"{mark} is in the second alone", fix=FIXES[kind])
    if all(_UUID.search(text) for text in texts) and _UUID.sub("", texts[0]) == _UUID.sub("", texts[1]):
        return Cause(kind="random", seen="a UUID", fix=FIXES["random"])
    if _RANDOM_WORD.sub("", texts[0]) == _RANDOM_WORD.sub("", texts[1]):
        numbers = all(one.isdigit() and two.isdigit() for one, two in pairs)
        seen = "a number" if numbers else "letters and digits that look random"
        return Cause(kind="random", seen=seen, fix=FIXES["random"])
    return UNKNOWN


def _put(text: str, mark: str) -> str:
    """Return a text with a mark, as a word of its own, replaced by one that is the same for all."""
    if not mark:
        return text
    edge = r"(?<![A-Za-z0-9])" if mark[0].isalnum() else ""
    end = r"(?![A-Za-z0-9])" if mark[-1].isalnum() else ""
    return re.sub(f"{edge}{re.escape(mark)}{end}", "\0", text)


def _markers(worlds: tuple[World, World]) -> dict[str, list[tuple[str, str]]]:
    """Return what of the surroundings is another in the second build, by class."""
    found: dict[str, list[tuple[str, str]]] = {}
    for kind, marks in worlds[0].markers.items():
        others = worlds[1].markers.get(kind, ())
        rows = [(one, two) for one in marks for two in others if one != two]
        if rows:
            found[kind] = rows
    return found


def _pairs(first: str, second: str) -> list[tuple[str, str]]:
    """Return the words that differ, by place; none where the texts have other forms."""
    one, two = ([word for word in TOKEN.findall(text) if not word.isspace()] for text in (first, second))
    if len(one) == len(two):
        return [(a, b) for a, b in zip(one, two, strict=True) if a != b][:_MANY]
    found = []
    matcher = difflib.SequenceMatcher(None, one, two, autojunk=False)
    if len(one) > 5000 or len(two) > 5000:
        return []
    for act, a, b, c, d in matcher.get_opcodes():
        if act == "equal":
            continue
        if b - a != d - c:
            return []
        found += list(zip(one[a:b], two[c:d], strict=True))
    return found
