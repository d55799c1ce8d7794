"""One kind of table for all seams: what can be plugged in, by name, imported when it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from buildstep.errors import UsageError

T = TypeVar("T")


def importing(place: str) -> Callable[[], Any]:
    """Return a factory that imports `module:name` when it is called, and returns that name."""

    def factory() -> Any:
        from importlib import import_module

        module, _, name = place.partition(":")
        return getattr(import_module(module), name)

    return factory


def _ignore(_text: str) -> None:
    pass


class Registry(Mapping[str, T]):
    """The table of a seam: our rows, and those of installed packages.

    seam: another package adds a row by an entry point of the group `buildstep.<seam>`; of two rows with the
    same name ours counts. what: one of them, as messages call it ("installer"). rows: factories without
    arguments that import on use; an entry point's `load` is such a factory too.

    As a mapping it holds our own rows only, in their order, and loads a row when it is looked up.
    """

    def __init__(self, seam: str, what: str, rows: Mapping[str, Callable[[], T]]) -> None:
        self.group = f"buildstep.{seam}"
        self.what = what
        self._rows = dict(rows)

    def __getitem__(self, name: str) -> T:
        return self._rows[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def find(self, name: str, note: Callable[[str], None] = _ignore) -> T | None:
        """Return the row of this name, None if there is none.

        note: is given a line for each row of another package that does not load. Raises UsageError if the one
        asked for does not load.
        """
        if name in self._rows:
            return self[name]
        loaded, broken = self._plugins(note)
        if name in broken:
            raise UsageError(broken[name], hint="repair or uninstall the package that brings it")
        return loaded.get(name)

    def plugins(self, note: Callable[[str], None] = _ignore) -> dict[str, T]:
        """Return the rows of other packages by name; note: as for `find`."""
        return self._plugins(note)[0]

    def names(self) -> list[str]:
        """Return the names of all rows, ours first; loads none of them."""
        from importlib import metadata

        return list(
            dict.fromkeys([*self._rows, *(point.name for point in metadata.entry_points(group=self.group))])
        )

    def hint(self, name: str) -> str:
        """Return the text that helps after a wrong name: the one likely meant, or all."""
        import difflib

        known = self.names()
        near = difflib.get_close_matches(name, known, 1)
        return f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"

    def _plugins(self, note: Callable[[str], None]) -> tuple[dict[str, T], dict[str, str]]:
        """Return what the other packages' rows load, and why some do not; both by name."""
        from importlib import metadata  # 30 ms: only for what is not ours

        loaded: dict[str, T] = {}
        broken: dict[str, str] = {}
        for point in metadata.entry_points(group=self.group):
            if point.name in self._rows:
                continue
            try:
                loaded[point.name] = point.load()
            except Exception as error:  # noqa: BLE001 - whatever another package raises, the rest goes on
                broken[point.name] = (
                    f"the {self.what} {point.name!r} ({point.value}) does not load: {error!r}"
                )
                note(broken[point.name])
        return loaded, broken
