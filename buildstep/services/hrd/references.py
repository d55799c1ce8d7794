"""References: `$(name)` in values, put in after they were taken apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from buildstep.errors import Fault, SpecError
from buildstep.services.hrd.ask import Ask
from buildstep.services.hrd.document import Document, told
from buildstep.services.hrd.values import Item, Value

Lookup = Callable[[str], Value | None]
"""Gives the value of a name that no document has, None if there is none."""

_REFERENCE = re.compile(r"\$\(([\w.]+)\)")
_NESTED = re.compile(r"\$\([\w.]*\$\(")
HINTS = 10
"""For how many unknown names a like one is sought: that takes a look at all names."""
DEEPEST = 50
"""How many references may lead on to one another."""
LONGEST = 1 << 20
"""Characters that a text may have once references are put in."""
MOST = 16 << 20
"""Characters that all values may have together."""


def names_in(value: Value | Item) -> list[str]:
    """Return the names that a value refers to, in their order."""
    if isinstance(value, str):
        return _REFERENCE.findall(value) if "$(" in value else []
    if isinstance(value, list):
        return [name for item in value if isinstance(item, str | list) for name in names_in(item)]
    if isinstance(value, dict):
        return [name for pair in value.items() for part in pair for name in names_in(part)]
    return []


def resolve(
    documents: Iterable[Document], lookup: Lookup | None = None, *, keys: Iterable[str] | None = None
) -> dict[str, Value]:
    """Return the values of some documents with their references put in.

    A later document wins over an earlier one where both have a key. A name is a key of theirs, or else one
    that `lookup` knows. keys: return only these (default: all). What a name stands for is put in as it is: a
    comma in it makes no second item. A value that is one reference and nothing else becomes what that is, a
    list too.
    `$(a-b)`, `$( a )` and `$(command of a shell)` are no references and stay; a `$(a.$(b))` is a fault.

    A question without answer stays an `Ask`. Raises SpecError: names that nobody knows, circles (each named
    from member to member), references to a question, a list inside a text, and values that grow past LONGEST
    or MOST characters.
    """
    resolver = _Resolver(list(documents), lookup)
    wanted = resolver.owners if keys is None else keys
    found = {}
    for key in wanted:
        try:
            found[key] = resolver.value(key, ())
        except _Fault as fault:
            resolver.remember(key, fault)
    if resolver.faults:
        raise SpecError(resolver.source, told(list(resolver.faults.values()), resolver.source))
    return found


class _Fault(Exception):
    """What is wrong with the value of a key."""

    def __init__(self, key: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.key = key
        self.message = message
        self.hint = hint


def _too_deep(key: str) -> _Fault:
    return _Fault(key, f"more than {DEEPEST} references lead on, each to the next", "write a value out")


class _Resolver:
    def __init__(self, documents: list[Document], lookup: Lookup | None) -> None:
        self.owners = {key: document for document in documents for key in document}
        self.source = ", ".join(dict.fromkeys(document.where for document in documents)) or "HRD"
        self.lookup = lookup
        self.done: dict[str, Value] = {}
        self.broken: dict[str, _Fault] = {}
        self.faults: dict[tuple[str, str], Fault] = {}
        self.size = 0
        self.depths: dict[str, int] = {}
        self.deepest = [0]
        """How deep goes what a value refers to: for each that is being put together."""

    def remember(self, key: str, fault: _Fault) -> None:
        """Remember a fault at the key that has it; those that only refer to that key add nothing."""
        where = (
            self.owners[fault.key].place(fault.key) if fault.key in self.owners else f"{self.source}: {key}"
        )
        self.faults[fault.key, fault.message] = Fault(where=where, message=fault.message, hint=fault.hint)

    def value(self, key: str, path: tuple[str, ...]) -> Value:
        """Return the value of a key. path: the keys that lead to it."""
        if key in self.done:
            return self.done[key]
        if key in self.broken:
            raise self.broken[key]
        try:
            self.done[key] = found = self._value(key, path)
        except _Fault as fault:
            self.broken[key] = fault
            raise
        return found

    def _value(self, key: str, path: tuple[str, ...]) -> Value:
        if key in path:
            circle = path[path.index(key) :]
            first = circle.index(min(circle))  # the same circle is told once, wherever it is entered
            names = (*circle[first:], *circle[:first], circle[first])
            raise _Fault(names[0], f"refers to itself: {' -> '.join(names)}", "write one of these values out")
        if len(path) >= DEEPEST:
            raise _too_deep(path[0])
        if (owner := self.owners.get(key)) is not None:
            return self._own(key, owner.entries[key].value, (*path, key))
        found = self.lookup(key) if self.lookup else None
        if found is None:
            hint = ""
            if len(self.broken) < HINTS:
                from buildstep.spec.schema import near

                hint = near(key, self.owners)
            user = path[-1] if path else key
            raise _Fault(user, f"nothing has the name {key}, which $({key}) refers to", hint)
        return found

    def _own(self, key: str, value: Value, path: tuple[str, ...]) -> Value:
        """Return the value of a key of the documents, and remember how deep it goes."""
        self.deepest.append(0)
        try:
            found = self._put_in(key, value, path)
        finally:
            depth = self.deepest.pop()
        if depth >= DEEPEST:
            raise _too_deep(key)
        self.depths[key] = depth + 1
        return found

    def _put_in(self, key: str, value: Value, path: tuple[str, ...]) -> Value:
        if isinstance(value, str):
            return self._text(key, value, path)
        if isinstance(value, list):
            return [self._item(key, item, path) for item in value]
        if isinstance(value, dict):
            result: dict[str, Item] = {}
            for name, item in value.items():
                new = self._plain(key, name, path)
                if new in result:
                    raise _Fault(key, f"two keys of this dict become {new}", "name one of them otherwise")
                result[new] = self._item(key, item, path)
            return result
        return value

    def _item(self, key: str, item: Item, path: tuple[str, ...]) -> Item:
        if isinstance(item, list):
            return [self._plain(key, one, path) if isinstance(one, str) else one for one in item]
        found = self._text(key, item, path)
        if isinstance(found, str):
            return found
        if isinstance(found, list) and all(isinstance(one, str | int | float) for one in found):
            return [one for one in found if isinstance(one, str | int | float)]
        raise _Fault(
            key,
            f"{item} is no text and no plain list, and stands in a list or dict",
            "refer to one of its parts",
        )

    def _plain(self, key: str, text: str, path: tuple[str, ...]) -> str:
        found = self._text(key, text, path)
        if isinstance(found, str):
            return found
        raise _Fault(key, f"{text} is no text", "only a whole value can become a list or a dict")

    def _text(self, key: str, text: str, path: tuple[str, ...]) -> Value:
        if "$(" not in text:
            return self._counted(key, text)
        if _NESTED.search(text):
            raise _Fault(
                key,
                "a reference in the name of a reference",
                "write $(name) with a name of letters, digits, _ and .",
            )
        if (alone := _REFERENCE.fullmatch(text)) is not None:
            return self._answered(key, alone[1], path)
        parts: list[str] = []
        size = last = 0
        for match in _REFERENCE.finditer(text):
            found = self._answered(key, match[1], path)
            if not isinstance(found, str):
                raise _Fault(key, f"{match[0]} is no text, and stands inside a text", "refer to a text")
            parts += (text[last : match.start()], found)
            last = match.end()
            size += len(found)
            if size > LONGEST:
                raise _Fault(key, f"gets longer than {LONGEST} characters", "refer to less")
        return self._counted(key, "".join((*parts, text[last:])))

    def _answered(self, key: str, name: str, path: tuple[str, ...]) -> Value:
        found = self.value(name, path)
        self.deepest[-1] = max(self.deepest[-1], self.depths.get(name, 0))
        if isinstance(found, Ask | bytes):
            what = "is asked for and has no answer" if isinstance(found, Ask) else "is binary"
            raise _Fault(key, f"{name} {what}, and $({name}) refers to it", "give it a value that is a text")
        self._count(key, found)
        return found

    def _count(self, key: str, found: Any) -> None:
        if isinstance(found, Mapping):
            self._counted(key, "".join(str(part) for pair in found.items() for part in pair))
        else:
            self._counted(key, found if isinstance(found, str) else "".join(map(str, found)))

    def _counted(self, key: str, text: str) -> str:
        self.size += len(text)
        if self.size > MOST:
            raise _Fault(key, f"all values together get longer than {MOST} characters", "refer to less")
        return text
