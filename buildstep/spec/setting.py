"""A setting of a build, as the table of `spec.settings` has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

from buildstep.spec.schema import Rule, choice


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """The names of what is plugged in. The caller knows them; this room does not."""

    installers: tuple[str, ...]
    formats: tuple[str, ...]
    cleaners: tuple[str, ...]
    compressions: tuple[str, ...] = ("gzip", "zstd", "xz", "bzip2", "none")


@dataclass(frozen=True, slots=True)
class Setting:
    """How one field of BuildSpec may be given.

    names: the options, where they depend on what is plugged in; for a list, of its entries. variable: in the
    environment, where it is not BUILDSTEP_ and the name. commas: whether they separate a list given as text.
    """

    name: str
    rule: Rule
    about: str
    _: KW_ONLY
    names: Callable[[Choices], Sequence[str]] | None = None
    flag: str = ""
    variable: str = ""
    in_file: bool = True
    commas: bool = True
    required: bool = False

    @property
    def env(self) -> str:
        """The name of its variable in the environment."""
        return self.variable or f"BUILDSTEP_{self.name.upper()}"

    @property
    def option(self) -> str:
        """The flag's long name, for messages."""
        return next((word for word in self.flag.split("/") if word.startswith("--")), "")

    @property
    def types(self) -> tuple[str, ...]:
        """The JSON types that it may have."""
        types = self.rule["type"]
        return (types,) if isinstance(types, str) else tuple(types)

    @property
    def kind(self) -> str:
        """The JSON type that text given for this setting stands for, where that is no JSON itself."""
        return self.types[-1]

    def rule_for(self, choices: Choices) -> Rule:
        """Return the rule, given what is plugged in."""
        if self.names is None:
            return self.rule
        options = choice(self.names(choices))
        return self.rule | ({"items": options} if self.kind == "array" else options)
