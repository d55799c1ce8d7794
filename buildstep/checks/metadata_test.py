"""`metadataTest` of container-structure-test: what the image's configuration says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from buildstep.checks.image import Image, Test


def run(test: Test, image: Image) -> Iterator[str]:
    """Yield what of the configuration is not what it has to be."""
    config = image.config
    yield from _pairs("variable", test.get("envVars", ()), config.env)
    for row in test.get("unboundEnvVars", ()):
        if row["key"] in config.env:
            yield f"the variable {row['key']} is set, and should not be"
    yield from _pairs("label", test.get("labels", ()), config.labels)
    for key, found in (("entrypoint", config.entrypoint), ("cmd", config.cmd)):
        if key in test and list(test[key]) != list(found or ()):
            yield f"{key} is {list(found or ())}, and {list(test[key])} is expected"
    ports = {form for port in config.ports for form in (port, port.removesuffix("/tcp"))}
    yield from _sets("port", test.get("exposedPorts", ()), test.get("unexposedPorts", ()), ports)
    yield from _sets("volume", test.get("volumes", ()), test.get("unmountedVolumes", ()), config.volumes)
    for key, text in (("workdir", config.workdir), ("user", config.user)):
        if key in test and (test[key] or "/" if key == "workdir" else test[key]) != text:
            yield f"{key} is {text!r}, and {test[key]!r} is expected"


def _pairs(what: str, rows: Sequence[Mapping[str, Any]], found: Mapping[str, str]) -> Iterator[str]:
    for row in rows:
        key, value = row["key"], row.get("value", "")
        if key not in found:
            yield f"the {what} {key} is not set"
        elif row.get("isRegex"):
            if not re.search(value, found[key]):
                yield f"the {what} {key} is {found[key]!r}, which has no match of {value!r}"
        elif found[key] != value:
            yield f"the {what} {key} is {found[key]!r}, and {value!r} is expected"


def _sets(what: str, wanted: Iterable[str], unwanted: Iterable[str], found: Iterable[str]) -> Iterator[str]:
    there = set(found)
    for name in wanted:
        if name not in there:
            yield f"the {what} {name} is not declared"
    for name in unwanted:
        if name in there:
            yield f"the {what} {name} is declared, and should not be"
