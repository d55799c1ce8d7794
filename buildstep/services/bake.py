"""`service bake`: services in an image, prepared and configured when it is built, started where it runs.

Made is an m.json for our own pipeline, and a proto directory with what the actions need: the runtime, the
files of the services, what is delivered to them. The pipeline installs the packages and runs the actions in
its sandbox; what only they needed is removed before the image is written. The records of the actions stay, as
on a node.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from buildstep.build.recipe import Source
from buildstep.build.recipe_sources import lay
from buildstep.errors import Fault, SpecError
from buildstep.events import Bus
from buildstep.services.delivery import Delivery
from buildstep.services.inputs import Tag, digest_of, inputs_of
from buildstep.services.interface import Action, Call, Facts, Process, Side
from buildstep.services.places.pack import action_files
from buildstep.services.places.talk import RUNTIME, call_text
from buildstep.services.plan import Graph
from buildstep.services.services_view import Subject
from buildstep.services.wire import facts_json

ROOM: Final = "/.buildstep-bake"
BOOT: Final = "/usr/lib/buildstep/services"
"""What starts several processes in a container: the runtime, and `boot.json`."""

NO_PYTHON: Final = "the image has no python3, which actions need: add it to the packages"

ACTIONS: Final = (Action.INSTALL, Action.PREPARE, Action.CONFIGURE)
_IN_OCI: Final = ("cmd", "entrypoint")


@dataclass(frozen=True, kw_only=True, slots=True)
class Baked:
    """What the pipeline is given. manifest: the m.json; proto: the directory."""

    manifest: Mapping[str, Any]
    proto: Path


def in_order(needs: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Return services so that each comes after those that it needs. Raises UsageError, ServiceError."""
    graph = Graph(needs)
    graph.check(keys)
    return [key for key in graph.order if key in keys]


def bake(
    subjects: Sequence[Subject],
    document: Mapping[str, Any],
    delivery: Delivery,
    tag: Tag,
    folder: Path,
    bus: Bus,
) -> Baked:
    """Return what makes an image with services. subjects: in the order in which they start; document: an
    m.json that says what the image is called, and more; folder: an empty directory.

    Raises SpecError for what cannot be in an image, BuildstepError for what is not delivered.
    """
    environ = os.environ
    processes = [process for subject in subjects for process in subject.facts.processes]
    manifest = manifest_of(document, [subject.facts for subject in subjects], processes)
    proto, work = folder / "proto", folder / "work"
    for path in (proto, work):
        path.mkdir()
    proto.chmod(0o755)
    sources = [Source(path=RUNTIME, dest=f"{ROOM}/runtime")]
    calls = []
    for number, subject in enumerate(subjects):
        there = f"{ROOM}/{number}"
        facts = subject.facts
        sources += [
            Source(path=item.path, dest=f"{there}/folder/{item.name}")
            for item in action_files(subject.folder, None)
            if not item.path.is_dir()
        ]
        trees = {}
        for at, (target, path) in enumerate(sorted(facts.trees.items())):
            trees[target] = f"{there}/tree-{at}"
            sources.append(Source(path=path, dest=trees[target]))
        with delivery.laid(facts, subject.secrets, bus) as top:
            if top is not None:
                trees["/"] = f"{there}/delivered"
                lay((Source(path=top, dest=trees["/"]),), proto, _new(work, f"{number}"), bus, environ)
        calls += _calls(subject, tag, there, trees)
    rows = folder / "calls.json"
    rows.write_text("".join(calls), encoding="utf-8", errors="surrogateescape")
    sources.append(Source(path=rows, dest=f"{ROOM}/calls.json"))
    if len(processes) > 1:
        boot = folder / "boot.json"
        boot.write_text(json.dumps(_boot_rows([subject.facts for subject in subjects])), encoding="utf-8")
        sources += [
            Source(path=RUNTIME, dest=f"{BOOT}/runtime"),
            Source(path=boot, dest=f"{BOOT}/boot.json"),
        ]
    lay(tuple(sources), proto, _new(work, "all"), bus, environ)
    return Baked(manifest=manifest, proto=proto)


def _new(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return path


def _boot_rows(facts: Sequence[Facts]) -> list[Any]:
    return [row for one in facts for row in facts_json(one)["processes"]]


def _calls(subject: Subject, tag: Tag, there: str, trees: Mapping[str, str]) -> list[str]:
    """Return the calls of a service. No secret is in them: they would be in the image's build."""
    facts = {"folder": f"{there}/folder", "trees": dict(trees)}
    own = subject.source(Side.NODE)
    source = None if own is None else f"{there}/folder/{own.name}"
    found = []
    for action in ACTIONS:
        digest = digest_of(inputs_of(subject, Side.NODE, action, "", tag))
        call = Call(facts=subject.facts, side=Side.NODE, action=action, digest=digest, source=own)
        found.append(call_text(call, {"timeless": True}, source=source, facts=facts))
    enable = json.loads(found[-1])
    enable["action"] = "enable"
    return [*found, json.dumps(enable) + "\n"]


def manifest_of(
    document: Mapping[str, Any], facts: Sequence[Facts], processes: Sequence[Process]
) -> dict[str, Any]:
    """Return the m.json of an image with services: what the document says, and what they need.

    Raises SpecError where the document says otherwise how the image starts, or two want one port.
    """
    build = dict(document.get("build") or {})
    faults = []
    oci = dict(build.get("oci") or {})
    seen: dict[int, str] = {}
    for one in facts:
        for process in one.processes:
            for port in process.ports:
                if port in seen:
                    message = f"port {port} is also that of {seen[port]}"
                    faults.append(Fault(where=f"{one.key}: process.{process.number}", message=message))
                seen[port] = f"{one.key}: process.{process.number}"
    if processes and (said := [name for name in _IN_OCI if name in oci]):
        message = "says how the image starts, which its services do"
        faults.append(Fault(where=f"$.build.oci.{said[0]}", message=message, hint="leave it out"))
    if faults:
        raise SpecError("bake", faults)
    packages = [*build.get("packages", ()), *(name for one in facts for name in one.packages)]
    run = build.get("run", [])
    if packages:
        build["packages"] = list(dict.fromkeys(packages))
    look = f"command -v python3 >/dev/null || {{ echo {shlex.quote(NO_PYTHON)} >&2; exit 1; }}"
    build["run"] = [
        *run,
        "\n".join([look, f"python3 -I {ROOM}/runtime calls {ROOM}/calls.json", f"rm -rf {ROOM}"]),
    ]
    if processes:
        build["oci"] = _oci(oci, processes, seen)
    return {**document, "build": build}


def _oci(oci: Mapping[str, Any], processes: Sequence[Process], ports: Mapping[int, str]) -> dict[str, Any]:
    """Return how a container starts: by its one process, or by what starts several."""
    found = {**oci, "expose": list(dict.fromkeys([*oci.get("expose", ()), *map(str, sorted(ports))]))}
    if not found["expose"]:
        del found["expose"]
    if len(processes) > 1:
        argv = ["python3", "-I", f"{BOOT}/runtime", "boot", f"{BOOT}/boot.json"]
        return {**found, "cmd": argv}
    process = processes[0]
    found["cmd"] = list(process.argv)
    if process.environment:
        found["env"] = {**found.get("env", {}), **process.environment}
    if process.directory:
        found.setdefault("workdir", process.directory)
    if process.user:
        found.setdefault("user", process.user)
    return found
