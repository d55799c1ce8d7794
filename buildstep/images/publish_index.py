"""Publish several archives as one index: each is found and compared before anything is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from buildstep.errors import ImageError, PublishError, SpecError, UsageError
from buildstep.events import Bus
from buildstep.formats.oci.naming import tag_of
from buildstep.images.publish import bundle_of, check_image, note
from buildstep.images.publishers import Bundle, Published, PublishOptions
from buildstep.images.publishers.index import Part, parts_of, publish_index
from buildstep.net.http import translated
from buildstep.net.registry import Reference


def publish(
    paths: Sequence[Path], target: str, *, options: PublishOptions, state: Path, bus: Bus
) -> Published:
    """Publish what was built for several platforms under one name, and write down where.

    paths: of each its manifest, record or directory; or an OCI archive or layout that others made. Raises
    PublishError, with all that is wrong with them.
    """
    with contextlib.ExitStack() as stack, translated(PublishError):
        bundles, parts, wrong = _opened(paths, stack)
        if wrong:
            raise PublishError("nothing was published", detail="\n".join(wrong))
        versions = {bundle.version for bundle in bundles.values()}
        tag = tag_of(versions.pop()) if len(versions) == 1 and len(bundles) == len(paths) else ""
        try:
            if not tag and not _names_tag(target):
                raise UsageError(
                    f"which tag is {target} to get? the images do not have one version", hint=f"{target}:TAG"
                )
            if target.startswith("docker:"):
                ref = Reference.parse(target, default_tag=tag)
                for part in parts:
                    check_image(part.layout, part.entry, part.stem, ref, options.demand)
            done = publish_index(parts, target, tag=tag, options=options, bus=bus)
        except (ImageError, SpecError) as error:
            raise PublishError(error.message, detail=error.detail, hint=error.hint) from error
        for bundle in bundles.values():
            note(bundle, replace(done, uuid=bundle.uuid), state, bus)
    return done


def _opened(
    paths: Sequence[Path], stack: contextlib.ExitStack
) -> tuple[dict[Path, Bundle], list[Part], list[str]]:
    """Return the builds, the images of all, and what is wrong with those that cannot be taken."""
    bundles: dict[Path, Bundle] = {}
    parts: list[Part] = []
    wrong: list[str] = []
    for path in paths:
        try:
            archive = path
            if not _is_foreign(path):
                bundles[path] = stack.enter_context(bundle_of(path))
                archive = bundles[path].oci.path
            parts += parts_of(archive)
        except (ImageError, PublishError) as error:
            wrong.append("\n  ".join(text for text in (error.message, error.detail, error.hint) if text))
    return bundles, parts, wrong


def _is_foreign(path: Path) -> bool:
    """Whether it is a layout, or an archive of one, that no build of ours wrote."""
    if path.is_dir() and not (path / "oci-layout").is_file():
        return False
    stem = path.name.removesuffix(".tar").removesuffix(".oci")
    beside = path.with_name(f"{stem}.imgmanifest").exists()
    return not beside and (path.is_dir() or path.suffix == ".tar")


def _names_tag(target: str) -> bool:
    return ":" in target.rpartition("/")[2]
