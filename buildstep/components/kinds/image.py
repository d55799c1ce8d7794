"""Images that an m.json describes: `NAME.image.json`, or a template of one, `NAME.image.json.j2`.

The component's hook makes the proto directory, and `build.image` can name an image of the graph.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from buildstep.components.interface import ReadImage, ReadOptions, Reference
from buildstep.errors import Fault, SpecError
from buildstep.formats.oci.spec import OciPlatform
from buildstep.spec import schema, template

_NO_GIT = {"commit": "0" * 40, "short": "0" * 7, "branch": "detached", "dirty": False, "tag": ""}
"""What a template is told of git here: a base image is not named by a commit, and a plan asks git nothing."""


class OurImage:
    """See `Kind`."""

    name = "image"

    def stem(self, file: str) -> str | None:
        found = re.fullmatch(r"(.+)\.image\.json(\.j2)?", file)
        return found and found[1]

    def ignore_file(self, file: str, files: Collection[str]) -> str:
        return ""

    def platform_faults(self, platforms: Sequence[str], where: str) -> list[Fault]:
        here = str(OciPlatform.here())
        others = [platform for platform in platforms if platform != here]
        if not others:
            return []
        message = f"cannot be built for {', '.join(others)}: an m.json is built for the machine, {here}"
        return [Fault(where=where, message=message, hint="set `platform` of this image in components.toml")]

    def read(self, text: str, *, where: str, options: ReadOptions) -> ReadImage:
        try:
            if where.endswith(".j2"):
                text = template.render(
                    text,
                    source=where,
                    git=lambda: _NO_GIT,
                    moment=datetime.fromtimestamp(0, UTC),
                    environ=options.environ,
                    defines=options.arguments,
                )
            value = schema.parse(text, where)
        except SpecError as error:
            return ReadImage(
                faults=tuple(
                    Fault(where=f"{where}: {row.where}", message=row.message, hint=row.hint)
                    for row in error.faults
                )
            )
        build = value.get("build") if isinstance(value, dict) else None
        base = build.get("image") if isinstance(build, dict) else None
        if not isinstance(base, str) or not base:
            message = "names no base image"
            return ReadImage(faults=(Fault(where=f"{where}: $.build.image", message=message),))
        return ReadImage(bases=(Reference(base, "build.image", 0),))


IMAGE = OurImage()
