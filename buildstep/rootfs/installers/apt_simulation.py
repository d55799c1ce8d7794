"""What `apt-get --simulate` prints: which packages would come and go, in which order, and from where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from buildstep.rootfs.interface import Resolution


class Simulation(NamedTuple):
    """What an install would bring. origins: by package, how its repository calls itself and its suite."""

    answer: Resolution
    origins: Mapping[str, str]


def parse(text: str) -> Simulation:
    """Return what was printed: Inst NAME [OLD] (NEW ORIGIN [ARCH]) ... or Remv NAME [OLD] ..."""
    found, origins, order = {}, {}, []
    for row in text.splitlines():
        if match := re.match(r"Inst (\S+) (?:\[[^\]]*\] )?\((\S+)(?: (.*?) \[)?", row):
            found[match[1]], origins[match[1]] = match[2], match[3] or ""
        elif match := re.match(r"(?:Remv|Purg) (\S+)", row):
            found[match[1]] = ""
        if match := re.match(r"(?:Inst|Conf|Remv|Purg) \S+", row):
            order.append(match[0])
    return Simulation(Resolution(versions=found, exact=True, order=tuple(order)), origins)
