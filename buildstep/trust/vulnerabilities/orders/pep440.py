"""The order of Python's versions, by the "Version specifiers" of the Python packaging specifications (PEP
440).

Stages of a release come in the order: development, alpha, beta, candidate, the release itself, post-releases.
"""

from __future__ import annotations

import re

_VERSION = re.compile(
    r"""v?
    (?:(?P<epoch>[0-9]{1,20})!)?
    (?P<release>[0-9]{1,40}(?:\.[0-9]{1,40}){0,20})
    (?:[-_.]?(?P<pre>alpha|a|beta|b|preview|pre|c|rc)[-_.]?(?P<pre_number>[0-9]{0,20}))?
    (?:-(?P<dash>[0-9]{1,20})|[-_.]?(?P<post>post|rev|r)[-_.]?(?P<post_number>[0-9]{0,20}))?
    (?:[-_.]?(?P<dev>dev)[-_.]?(?P<dev_number>[0-9]{0,20}))?
    (?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+){0,20}))?""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_STAGES = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}

_FIRST, _LAST = -1, 9

_Local = tuple[tuple[int, int, str], ...]
_Key = tuple[int, tuple[int, ...], tuple[int, int], int, tuple[int, int], _Local]


def compare(left: str, right: str) -> int:
    """Compare two versions. Raises ValueError for what is none."""
    mine, its = _key(left), _key(right)
    return (mine > its) - (mine < its)


def _key(version: str) -> _Key:
    text = version.strip()
    match = _VERSION.fullmatch(text) if len(text) < 500 else None
    if not match:
        raise ValueError(f"{version[:60]!r} is no version of Python's")
    release = [int(part) for part in match["release"].split(".")]
    while len(release) > 1 and not release[-1]:
        release.pop()
    post = _FIRST
    if match["dash"] or match["post"]:
        post = int(match["dash"] or match["post_number"] or 0)
    if match["pre"]:
        stage = (_STAGES[match["pre"].lower()], int(match["pre_number"] or 0))
    else:  # 1.0.dev1 comes before 1.0a1, but 1.0.post1.dev1 after 1.0
        stage = (_FIRST, 0) if match["dev"] and post == _FIRST else (_LAST, 0)
    dev = (0, int(match["dev_number"] or 0)) if match["dev"] else (1, 0)
    words = re.split("[-_.]", (match["local"] or "").lower()) if match["local"] else []
    # Of a local version, words come before numbers; with one a version is later than without.
    local = tuple((1, int(word), "") if word.isdigit() else (0, 0, word) for word in words)
    return int(match["epoch"] or 0), tuple(release), stage, post, dev, local
