"""The names of what is plugged in: installers, formats and cleaners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from buildstep.spec.settings import Choices
    from buildstep.system.registry import Registry


def choices(*, plugins: bool = False) -> Choices:
    """Return the names of installers, formats and cleaners, for the spec to check names against. plugins:
    also those of other packages."""
    from buildstep import emit
    from buildstep.rootfs import cleaners, installers
    from buildstep.spec.settings import Choices

    def names(table: Registry[Any]) -> tuple[str, ...]:
        return tuple(table.names() if plugins else table)

    return Choices(
        installers=names(installers.INSTALLERS),
        formats=names(emit.EMITTERS),
        cleaners=names(cleaners.CLEANERS),
    )
