"""Image configurations of others (image-spec config.md), as far as they are what the specification says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_Fits = Callable[[object], bool]


def _text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _object(value: object) -> bool:
    return isinstance(value, dict)


def _objects(value: object) -> bool:
    return isinstance(value, list) and all(map(_object, value))


def _labels(value: object) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


def _flag(value: object) -> bool:
    return isinstance(value, bool)


_TOP: Mapping[str, _Fits] = {
    **dict.fromkeys(("created", "author", "os", "os.version", "architecture", "variant"), _text),
    "os.features": _texts,
    "config": _object,
    "history": _objects,
}
_PROCESS: Mapping[str, _Fits] = {
    **dict.fromkeys(("User", "WorkingDir", "StopSignal"), _text),
    **dict.fromkeys(("Env", "Entrypoint", "Cmd", "OnBuild", "Shell"), _texts),
    **dict.fromkeys(("ExposedPorts", "Volumes", "Healthcheck"), _object),
    "Labels": _labels,
    "ArgsEscaped": _flag,
}
_HISTORY: Mapping[str, _Fits] = {
    **dict.fromkeys(("created", "created_by", "author", "comment"), _text),
    "empty_layer": _flag,
}


def sound_config(config: Mapping[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    """Return a configuration without the values that are of another type than they may be.

    What the specification does not know is left as it is, and null, which many tools write for nothing. tell:
    is given the name of each value that is left out.
    """
    found = _sound(config, _TOP, "", tell)
    if found.get("config"):
        found["config"] = _sound(found["config"], _PROCESS, "config.", tell)
    if found.get("history"):
        found["history"] = [_sound(row, _HISTORY, "history.", tell) for row in found["history"]]
    return found


def _sound(
    value: Mapping[str, Any], fields: Mapping[str, _Fits], where: str, tell: Callable[[str], None]
) -> dict[str, Any]:
    found = {}
    for name, item in value.items():
        if item is None or name not in fields or fields[name](item):
            found[name] = item
        else:
            tell(f"{where}{name}")
    return found
