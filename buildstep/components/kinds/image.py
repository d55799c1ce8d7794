"""Images that an m.json describes: `NAME.image.json`, or a template of one, `NAME.image.json.j2`.

The component's hook makes the proto directory, and `build.image` can name an image of the graph.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from buildstep.components.interface import ReadImage, ReadOptions, Reference
from buildstep.errors import Fault, SpecError
from buildstep.formats.oci.spec import ARCHITECTURES, OciPlatform
from buildstep.spec.document import PROFILE, Document, Reader

_NO_GIT = {"commit": "0" * 40, "short": "0" * 7, "branch": "detached", "dirty": False, "tag": ""}
"""What a template is told of git here: a base image is not named by a commit, and a plan asks git nothing."""

_RUNNING = ("packages", "run", "upgrade_first", "pkg_audit")
"""Settings of a build that make programs of the image run."""


class OurImage:
    """See `Kind`."""

    name = "image"

    def stem(self, file: str) -> str | None:
        found = re.fullmatch(r"(.+)\.image\.json(\.j2)?", file)
        return found and found[1]

    def ignore_file(self, file: str, files: Collection[str]) -> str:
        return ""

    def platform_faults(self, platforms: Sequence[str], where: str) -> list[Fault]:
        known = [OciPlatform.parse(platform) for platform in platforms]
        others = [str(it) for it in known if it.os != "linux" or it.architecture not in ARCHITECTURES]
        if not others:
            return []
        message = f"cannot be built for {', '.join(others)}: an m.json is built for linux"
        return [Fault(where=where, message=message, hint=f"on one of: {', '.join(ARCHITECTURES)}")]

    def read(self, text: str, *, where: str, options: ReadOptions) -> ReadImage:
        environ = {name: value for name, value in options.environ.items() if name != PROFILE}
        path = options.top / where
        reader = Reader(lambda: _NO_GIT, environ, options.arguments, datetime.fromtimestamp(0, UTC))
        try:
            document = reader.document(where, text, path.parent)
        except SpecError as error:
            faults = [
                replace(row, where=f"{where}: {row.where}") for row in error.faults if row.where[:2] != "-D"
            ]
            return ReadImage(faults=tuple(faults))
        if outside := _outside(document, path.parents[1], where):
            return ReadImage(faults=outside)
        value = document.value
        build = value.get("build") if isinstance(value, dict) else None
        build = build if isinstance(build, dict) else {}
        base = build.get("image")
        if not isinstance(base, str) or not base:
            message = "names no base image"
            return ReadImage(faults=(Fault(where=f"{where}: $.build.image", message=message),))
        runs = base.startswith("mmdebstrap:") or any(build.get(name) for name in _RUNNING)
        return ReadImage(bases=(Reference(base, "build.image", 0),), runs=runs)


def _outside(document: Document, component: Path, where: str) -> tuple[Fault, ...]:
    """Return a fault for each file that is included from elsewhere: a copy of the component is built."""
    top = os.path.realpath(component)
    others = [name for name in document.files if not os.path.realpath(name).startswith(f"{top}/")]
    message = "is included, and is no file of the component"
    return tuple(
        Fault(where=f"{where}: {os.path.relpath(name, component)}", message=message, hint="put a copy there")
        for name in others
    )


IMAGE = OurImage()
