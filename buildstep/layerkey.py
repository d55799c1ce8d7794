"""Layer keys: a chained digest over a step, what decides its result, and the layer below it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FORMAT = 1


def layer_key(below: str, step: str, inputs: Mapping[str, Any]) -> str:
    """Hex digest (40 digits) of a layer. inputs: JSON values; equal keys promise equal content."""
    text = json.dumps([FORMAT, below, step, inputs], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between the inputs of two layers, one short sentence each."""
    found = []
    for name in sorted({*old, *new}):
        was, now = old.get(name), new.get(name)
        if was == now:
            continue
        if isinstance(was, list) and isinstance(now, list):
            found += [f"{name}: {item} added" for item in now if item not in was]
            found += [f"{name}: {item} removed" for item in was if item not in now]
            if sorted(map(str, was)) == sorted(map(str, now)):
                found.append(f"{name}: order changed")
        elif isinstance(was, dict) and isinstance(now, dict):
            found += [f"{name}.{line}" for line in difference(was, now)]
        elif name not in old:
            found.append(f"{name}: {now} added")
        elif name not in new:
            found.append(f"{name}: {was} removed")
        else:
            found.append(f"{name}: {was} -> {now}")
    return found
