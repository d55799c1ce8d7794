"""Layer keys: a chained digest over a step, what decides its result, and the layer below it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FORMAT = 1


def layer_key(below: str, step: str, inputs: Mapping[str, Any]) -> str:
    """Hex digest (40 digits) of a layer. inputs: JSON values; equal keys promise equal content.

    The order of an object's keys is no part of it: where an order matters, give a list.
    """
    text = json.dumps([FORMAT, below, step, inputs], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:40]
