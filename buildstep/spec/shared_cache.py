"""The cache that agents share: where it is, whom it is believed for, and what it may cost a build."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from buildstep.errors import Fault, SpecError
from buildstep.spec.rules import LINE, PLAIN
from buildstep.spec.schema import BOOLEAN, HTTP, Rule, at, check, choice, record, text

URL: Final = text(
    rf"({HTTP}|s3)://[^\s@?#/]+[^\s@?#]*|registry:[^\s@?#/]+/[^\s@?#]+"
    rf"|ssh://([^\s@:?#/]+@)?[^\s@?#/]+/[^\s@?#]*"
    rf"|dir:[^{PLAIN}#]+",
    say="dir:PATH, s3://BUCKET[/PREFIX], registry:HOST/NAME, ssh://HOST/PATH or http(s)://HOST/PATH, "
    "without a password",
)
"""Where a shared cache is."""

SCOPE: Final = text(
    r"main|branch/[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}",
    say='"main", or branch/NAME for what may not write there',
)
TRUST: Final = choice(["policy", "release"])
_SECONDS: Final[Rule] = {"type": "number", "minimum": 0, "maximum": 7 * 24 * 3600}

KEYS: Final[Mapping[str, Rule]] = {
    "shared": URL,
    "scope": SCOPE,
    "trust": {"type": "string", **TRUST},
    "policy": LINE,
    "key": LINE,
    "required": BOOLEAN,
    "upload": {"type": ["boolean", "string"], **choice([True, False, "detach"])},
    "budget": _SECONDS,
    "min_cost": _SECONDS,
    "look_up": _SECONDS,
}
"""What may be said of a shared cache, in `build.cache` and in the table `cache` of buildstep.toml."""

CACHE: Final[Rule] = record(KEYS) | {"type": ["object", "boolean"]}


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedCache:
    """A shared cache, and how a build uses it.

    url: where it is. scope: in which this build writes, and where it reads before it reads `main`. trust:
    `policy`, records count that the policy allows; without a policy those of a directory that this machine
    may write to. `release`, only those that a key has signed which the policy marks for that. policy: its
    file; key: that of the private key that signs, None for what BUILDSTEP_CACHE_KEY has. required: whether a
    build fails where the cache cannot be used. upload: whether what was made is put there, `detach` by a
    process that outlives the build. budget: seconds that an upload may take after the build, None for a share
    of that; min_cost: what took less to make is not uploaded; look_up: seconds that an answer may take.
    """

    url: str
    scope: str = "main"
    trust: Literal["policy", "release"] = "policy"
    policy: str | None = None
    key: str | None = None
    required: bool = False
    upload: bool | Literal["detach"] = True
    budget: float | None = None
    min_cost: float = 2.0
    look_up: float = 0.3


VARIABLES: Final = {
    "BUILDSTEP_SHARED_CACHE": "shared",
    "BUILDSTEP_CACHE_SCOPE": "scope",
    "BUILDSTEP_CACHE_POLICY": "policy",
    "BUILDSTEP_CACHE_UPLOAD": "upload",
}
"""Variables, and what they say."""

_WORDS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def of_variable(name: str, value: str) -> object:
    """Return what a variable's text stands for."""
    return _WORDS.get(value.lower(), value) if name == "upload" else value


def placed(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return settings with absolute paths; folder: what those given are relative to."""
    found = dict(values)
    for name in ("policy", "key"):
        if value := found.get(name):
            found[name] = os.path.abspath(folder / os.path.expanduser(value))
    if (url := found.get("shared")) and url.startswith("dir:"):
        found["shared"] = f"dir:{os.path.abspath(folder / url.removeprefix('dir:'))}"
    return found


def merged(
    given: bool | Mapping[str, Any],
    flags: Mapping[str, Any],
    config: Mapping[str, Any],
    environ: Mapping[str, str],
    cwd: Path,
) -> SharedCache | None:
    """Return the shared cache of a build, None where it has none.

    given: the setting `cache`, whose paths are absolute; flags win over it, it over the configuration, that
    over the variables of the environment. Raises SpecError with every fault of what they say together.
    """
    if given is False:
        return None
    variables = {key: of_variable(key, environ[name]) for name, key in VARIABLES.items() if environ.get(name)}
    named = given if isinstance(given, Mapping) else {}
    values = {**placed(variables, cwd), **config, **named, **placed(flags, cwd)}
    if not values.get("shared"):
        return None
    if wrong := [*check(values, record(KEYS), "cache"), *_faults(values)]:
        raise SpecError("the shared cache", wrong)
    return SharedCache(url=values.pop("shared"), **values)


def _faults(values: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what is wrong with settings that each keep their rule: files that are not there, and what does
    not go together."""
    for name in ("policy", "key"):
        value, place = values.get(name), at("cache", name)
        if isinstance(value, str) and not os.path.isfile(value):
            yield Fault(where=place, message=f"{value} is not a file")
    if values.get("trust") == "release" and not values.get("policy"):
        hint = f"name the file with {at('cache', 'policy')} or BUILDSTEP_CACHE_POLICY"
        yield Fault(
            where=at("cache", "trust"), message="release needs a policy that names the keys", hint=hint
        )
