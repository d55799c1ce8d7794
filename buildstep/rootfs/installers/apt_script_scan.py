"""What the scripts of installed Debian packages look for: any other command or file can be added later.

Scripts are read, not run: a name counts wherever it might be meant. Perl modules that are named only while a
program runs are not seen; those are debconf's ways to ask a person, and here nobody is asked.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence

from buildstep.rootfs.installers.dpkg_database import INFO
from buildstep.system.root import Root

_WORD = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_LOOKED = re.compile(
    rb"""(?mx)
    (?: / | ['"`(] | [;|&!{=]\s* | ^\s* | \$\(\s*
      | \b(?:then|else|elif|do|if|while|until|exec|eval|xargs|which|type|hash|command\ -v|command)\s+
    ) ([A-Za-z0-9_][A-Za-z0-9_.+-]*)"""
)
"""Where a name is a command, a file or a string: `sh`, Perl and Python write them so."""
_PATH = re.compile(rb"/(?:[A-Za-z0-9_.+-]+/)*[A-Za-z0-9_.+-]+")
_SOURCED = re.compile(rb"(?m)(?:^|[\s;&|])(?:\.|source)\s+[\"']?(/[A-Za-z0-9_./+-]+)")
_PERL = re.compile(rb"(?m)^\s*(?:use|require)\s+([A-Z]\w*(?:::\w+)*)")
_PYTHON = re.compile(rb"(?m)^\s*(?:from|import)\s+(\w+)")
_COMMENT = re.compile(rb"(?m)^\s*#.*$")
_SAID = re.compile(
    rb"(?m)^\s*(?:echo|printf)\s(?:[^`$(|;&<>\n]|\$\w)*$"  # what is printed for a person
    rb"|^\s*\w+=|\$\{?\w+"  # what a variable is called
)
_ALL = re.compile(
    rb"(?:/s?bin|/usr/(?:s?bin|games|share|lib|libexec)|/etc|/usr)/\*(?:[\s/;\"')]|$)|\bfind\s+/(?:etc|usr|)\s"
)
"""A script that looks through a place where every package has files."""
_LARGEST = 1 << 20
"""No script is larger."""


class ScriptScan:
    """A scan of what the scripts of all installed packages look for, and the programs that these call.

    looks_at_all: whose script looks through a place where every package has files; empty if none does.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._named: dict[bytes, str] = {}
        self._programs: list[tuple[str, bytes]] = []
        self._commands: dict[bytes, str] = {}
        for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
            for name in _names(root, folder):
                self._commands[os.fsencode(name)] = f"{folder}/{name}"
        self._seen: set[str] = set()
        self.looks_at_all = ""
        queue: list[str] = []
        for name in _names(root, INFO):
            if name.endswith((".preinst", ".postinst", ".config")):
                text = _SAID.sub(b" ", _COMMENT.sub(b"", root.read(f"{INFO}/{name}")))
                # Scripts are short: any word of them counts.
                package, _, kind = name.rpartition(".")
                self._take(_WORD.findall(text), f"the {kind} of {package}")
                if _ALL.search(text):
                    self.looks_at_all = f"the {kind} of {package}"
                queue += self._called(text)
        while queue:
            queue += self._follow(queue.pop())

    def searcher(self, name: str) -> str:
        """Return who looks for a package, command, file or directory of this name; empty if nobody does."""
        word = os.fsencode(name)
        if word in self._named:
            return self._named[word]
        # Programs call their helpers by whole paths.
        marks = (b"bin/" + word + b"\0", b"share/" + word + b"\0", b"etc/" + word + b"\0")
        return next((program for program, data in self._programs if any(mark in data for mark in marks)), "")

    def _take(self, words: Sequence[bytes], who: str) -> None:
        for word in words:
            self._named.setdefault(word, who)

    def _called(self, text: bytes) -> list[str]:
        """Return the files that a script may run or read in."""
        found = [self._commands[word] for word in {*_WORD.findall(text)} & self._commands.keys()]
        found += [os.fsdecode(path) for path in _SOURCED.findall(text)]
        for raw in set(_PATH.findall(text)):
            if self._root.is_program(path := os.fsdecode(raw)):
                found.append(path)
        for module in _PERL.findall(text):
            found.append(f"/usr/share/perl5/{os.fsdecode(module).replace('::', '/')}.pm")
        for module in _PYTHON.findall(text):
            top = f"/usr/share/python3/{os.fsdecode(module)}"
            found += [f"{top}/{name}" for name in _names(self._root, top) if name.endswith(".py")]
        return found

    def _follow(self, path: str) -> list[str]:
        real = self._root.real(path)
        if real is None or real in self._seen or self._root.is_dir(real):
            return []
        self._seen.add(real)
        status = self._root.lstat(real)
        if status is None or not stat.S_ISREG(status.st_mode):
            return []
        data = self._root.read(real)
        if data.startswith(b"\x7fELF"):
            self._programs.append((real, data))
            return []
        if len(data) > _LARGEST:
            return []
        text = _COMMENT.sub(b"", data)
        names = _LOOKED.findall(text)
        self._take(names, real)
        included = [match[0].strip() for kind in (_SOURCED, _PERL, _PYTHON) for match in kind.finditer(text)]
        return self._called(b"\n".join((b" ".join(names), *_PATH.findall(text), *included)))


def _names(root: Root, folder: str) -> list[str]:
    where = root.host_path(folder)
    return sorted(os.listdir(where)) if where is not None and where.is_dir() else []
