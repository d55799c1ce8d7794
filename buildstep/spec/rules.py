"""Rules of values that several settings and configuration files have: lines, paths, sizes, stores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from buildstep.spec.schema import HTTP, integer, record, text
from buildstep.system.registry import Registry

# Control characters must not get into an argv, a path or a log.
PLAIN = r"\x00-\x1f\x7f"
_HALVES = r"\ud800-\udfff"  # surrogates: no file name can hold them
WORD = text(rf"[^{PLAIN}-][^{PLAIN}]*", say="one line that does not start with a dash")
LINE = text(rf"[^{PLAIN}]*", say="one line")
NO_NUL = text(r"[^\x00]*", say="free of NUL", least=0)
ABSOLUTE = text(rf"/[^{PLAIN}]*", say="an absolute path")
PACKAGE = text(
    r"[A-Za-z0-9_.+:=~/][A-Za-z0-9_.+:=~/-]*",
    say="a package: A-Z a-z 0-9 - _ . + : = ~ / and no dash in front",
)
PREFIX = text(
    rf"[^/.{PLAIN}{_HALVES}-][^/{PLAIN}{_HALVES}]*",
    say="a file name that does not start with a dot or a dash",
)
SNAPSHOT = text(
    rf"[0-9]{{8}}T[0-9]{{6}}Z|({HTTP}|file)://[^\s{PLAIN}]+",
    say="a time such as 20260102T030405Z, or an address, which may have {archive} and {date}",
)
_WHO = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
OWNER = text(f"keep|{_WHO}:{_WHO}", say='"keep" or USER:GROUP, names or numbers')
OUTPUT: Final = text(rf"!?/[^{PLAIN}]*", say="an anchored pattern: /PATH, or !/PATH for what stays out")
"""What of a tree is recorded."""

PLATFORM: Final = text(r"[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?", say="OS/ARCHITECTURE[/VARIANT]")

BYTES = "[0-9]{1,15}[KMGTkmgt]?(i?[Bb])?"
SIZE = text(BYTES, say="a number of bytes such as 500K or 10M")
SECONDS = integer(1, 7 * 24 * 3600)
STORE: Final = text(
    rf"({HTTP}|s3)://[^\s@?#/]+[^\s@?#]*|ssh://([^\s@:?#/]+@)?[^\s@?#/]+/[^\s@?#]*|dir:[^{PLAIN}#]+|[^{PLAIN}:#-][^{PLAIN}:#]*",
    say="dir:PATH, s3://BUCKET[/PREFIX], ssh://HOST/PATH or http(s)://HOST/PATH, without a password",
)
"""Where a store of contents is."""
LIMITS: Final = record(
    {
        "pids": integer(0, 4_194_304),
        "memory": integer(0, 2**62),
        "output": integer(0, 2**62),
        "open_files": integer(0, 1_048_576),
        "file_size": integer(0, 2**62),
    }
)
"""Of what a command in the image may take."""

_PLACES: Final = ("agent", "pkcs11", "env")
_OTHERS: Final[Registry[Any]] = Registry("signers", "place of keys", {})
"""Where a key can be that is not in a file: of our own places, and of those that other packages bring."""


def is_key_file(key: str) -> bool:
    """Whether a key is named by the path of its file, as `trust.keys.signer` takes it."""
    place, _, rest = key.partition(":")
    if key == "agent" or (rest and place in _PLACES):
        return False
    # Rows of other packages are only looked for where a text may mean one: that takes its time.
    return not rest or place in ("", "file") or "/" in place or place not in _OTHERS.names()


def key_at(text: str, directory: Path) -> str:
    """Return the name of a key that signs; the path of a file becomes absolute. directory: of the file that
    names it."""
    return os.path.join(directory, text) if is_key_file(text) else text
