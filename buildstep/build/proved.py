"""Whether what stands beside an image proves it as it is asked for now."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildstep.build import cache_inputs, vulnerabilities
from buildstep.cache import kept_source
from buildstep.cache.kept_source import KeptSource
from buildstep.cache.outputs import stamp_of
from buildstep.errors import SigningError, UsageError
from buildstep.spec.fields import to_data
from buildstep.spec.load import BuildSpec
from buildstep.spec.rules import is_key_file
from buildstep.spec.trust import Trust
from buildstep.trust import sidecars
from buildstep.trust.sidecars import SIDECARS, STATEMENTS

if TYPE_CHECKING:
    from buildstep.build.context import BuildContext, BuildState


def text(proof: Trust) -> str:
    """Return what is asked for, for people."""
    words = [*proof.sbom, *([f"provenance ({proof.provenance})"] if proof.provenance else [])]
    words += (
        [f"signed with {len(proof.keys)} keys" if len(proof.keys) > 1 else "signed"] if proof.keys else []
    )
    words += ["known vulnerabilities"] if proof.vulnerabilities is not None else []
    return ", ".join(words)


def hashed(spec: BuildSpec) -> bool:
    """Whether files that no package owns are wanted with their SHA-1, as only SPDX 2.3 has them."""
    return "spdx" in spec.proof.sbom


def asked(spec: BuildSpec) -> str:
    """Return a digest of what decides these files beside the image: settings, and the keys that they name."""
    value = {
        "trust": to_data(spec.proof),
        "keys": [_key(word) for word in spec.proof.keys],
        "vulnerabilities": vulnerabilities.fingerprint(spec),
    }
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _key(word: str) -> list[int]:
    if not is_key_file(word):
        return []
    with contextlib.suppress(OSError):
        info = os.stat(word)
        return [info.st_ino, info.st_size, info.st_mtime_ns]
    return []


def stamps(files: Iterable[Path]) -> dict[str, list[int]]:
    """Return what changes when one of some files is replaced or written to."""
    return {os.fspath(path): stamp_of(path) for path in files}


def problem(spec: BuildSpec, facts: Mapping[str, Any]) -> str:
    """Return why what stands beside an image is not what is asked for; empty if it is. facts: what is known
    of the outputs, see `outputs.find`."""
    known = facts.get("trust", {})
    if not spec.proof.writes:
        return "it is not asked for any more" if known else ""
    if not known:
        return "it was not asked for when the image was made"
    for name, there in known["files"].items():
        try:
            if stamp_of(Path(name)) != there and not _only_more(Path(name), known.get("signed", ())):
                return f"{os.path.basename(name)} was changed"
        except OSError:
            return f"{os.path.basename(name)} is gone"
    return "" if known["asked"] == asked(spec) else "what is asked for is not what it was"


def note(spec: BuildSpec, files: Iterable[Path]) -> dict[str, Any]:
    """Return what is to be known of the files beside an image, for `problem`."""
    paths = tuple(files)
    marks = (_marks(path) for path in paths if path.name.endswith(SIDECARS[STATEMENTS]))
    return {"asked": asked(spec), "files": stamps(paths), "signed": sorted(set().union(*marks))}


def _marks(path: Path) -> set[str]:
    """Return digests of all that a file of envelopes says: of each statement, and with each signature. Raises
    SigningError, UsageError for what is none, OSError."""
    from buildstep.trust import dsse
    from buildstep.trust.signatures.lines import LARGEST

    found: set[str] = set()
    for line in (sidecars.read(path, LARGEST) or b"").splitlines():
        envelope = dsse.parse(line)
        for signature in (b"", *(row.sig for row in envelope.signatures)):
            found.add(hashlib.sha256(envelope.message + b"\0" + signature).hexdigest()[:32])
    return found


def _only_more(path: Path, marks: Collection[str]) -> bool:
    """Whether a file has all the statements and signatures that it had: somebody else has signed it since."""
    with contextlib.suppress(SigningError, UsageError):
        return bool(marks) and _marks(path) >= set(marks)
    return False


def unproved(spec: BuildSpec, facts: Mapping[str, Any], state: Path) -> str:
    """Return why an image that stands has to be made again to prove it as it is asked for; empty if not."""
    if not spec.proof.writes or not (wrong := problem(spec, facts)):
        return ""
    kept = kept_source.load(state, cache_inputs.outputs_slot(spec))
    there = (enough(spec, kept) and kept.tree == facts["tree_digest"]) or readable(facts)
    return "" if there else f"to prove the image: {wrong}"


_READABLE = ("oci", "oci-dir", "tar")
"""Formats that are read without being unpacked."""


def readable(facts: Mapping[str, Any]) -> str:
    """Return the path of an image file from which can be told what is in the image; empty for none."""
    found = {file["format"]: str(file["path"]) for file in facts["files"]}
    return next((found[name] for name in _READABLE if name in found), "")


def unread(spec: BuildSpec, state: Path, build: str) -> bool:
    """Whether what is in the image of a build has to be read, and what was read of it is not kept."""
    if not spec.proof.writes:
        return False
    kept = kept_source.load(state, cache_inputs.outputs_slot(spec))
    return not enough(spec, kept) or kept.build != build


def enough(spec: BuildSpec, kept: KeptSource) -> bool:
    """Whether what was kept of an image has all hashes that are wanted now."""
    return kept.hashed or not hashed(spec)


def changed(context: BuildContext, state: BuildState) -> bool:
    """Whether what goes beside an image that stands is another now."""
    facts = context.plan.outputs
    return state.sidecars is not None or (
        facts is not None and bool(facts.get("trust")) and not context.spec.proof.writes
    )
