"""The table of a transaction that dnf prints: which packages would come and go.

Sections with a title (`Installing dependencies:`), in each a row for every package: name, architecture,
version, repository and size; a row that is too long goes on in the next line, further to the right. At the
end the numbers of packages, by which it is known whether every row was understood.
"""

from __future__ import annotations

import re

from buildstep.rootfs.interface import Resolution

_COMES = ("Installing", "Upgrading", "Downgrading", "Reinstalling")
_GOES = "Removing"
_PASSED_OVER = "Skipping packages"
_SUMMARY = "\nTransaction Summary\n"

_ROW = re.compile(r"(\S+) (\S+) (\S+) (\S+) [0-9.]+(?: [kMGTPEZY])?")
_REPLACED = re.compile(r"replacing (\S+)\.[^.\s]+ \S+")
_COUNT = re.compile(r"^(Install|Upgrade|Downgrade|Reinstall|Remove) +([0-9]+) Packages?", re.MULTILINE)


def is_answer(text: str) -> bool:
    """Whether a transaction was found, if only that nothing would change."""
    return _SUMMARY in text or _is_empty(text)


def _is_empty(text: str) -> bool:
    return "Nothing to do." in text.splitlines()


def parse(text: str) -> Resolution:
    """Return what a table says. It is exact if all of it was understood."""
    body, summary, numbers = text.partition(_SUMMARY)
    versions: dict[str, str] = {}
    replaced: list[str] = []
    rows, exact = 0, bool(summary) or _is_empty(text)
    for title, lines in _sections(body):
        if title.startswith(_PASSED_OVER):
            continue
        known = title.startswith((*_COMES, _GOES))
        exact = exact and known
        for row in _joined(lines) if known else ():
            if match := _REPLACED.fullmatch(row):
                replaced.append(match[1])
            elif match := _ROW.fullmatch(row):
                name, arch, version, _repository = match.groups()
                rows += 1
                key = name if name not in versions else f"{name}:{arch}"
                versions[key] = "" if title.startswith(_GOES) else version
            else:
                exact = False
    exact = exact and rows == sum(int(count) for _, count in _COUNT.findall(numbers))
    return Resolution(versions=dict.fromkeys(replaced, "") | versions, exact=exact)


def _sections(body: str) -> list[tuple[str, list[str]]]:
    """Return titles with the lines below each; what comes before the table has none."""
    found: list[tuple[str, list[str]]] = []
    rules = 0
    for line in body.splitlines():
        if line.startswith("===="):
            rules += 1
        elif rules >= 2 and line.strip():
            if line.startswith(" "):
                if found:
                    found[-1][1].append(line)
            else:
                found.append((line, []))
    return found


def _joined(lines: list[str]) -> list[str]:
    """Return rows, each in one line: one begins after a single blank, or with `replacing`."""
    found: list[str] = []
    for line in lines:
        words = " ".join(line.split())
        begins = not line.startswith("  ") or words.startswith("replacing ")
        if begins or not found:
            found.append(words)
        else:
            found[-1] += f" {words}"
    return found
