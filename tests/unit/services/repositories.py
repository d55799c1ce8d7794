"""Repositories of services for tests: templates from short texts, services created from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildstep.services.answers import Answers, Source
from buildstep.services.create import create as make
from buildstep.services.create_requests import Request
from buildstep.services.repository import Repository, Service

NODE = {"instance.hrd": "node.tcp.addr = @ASK default:127.0.0.1\n"}
REDIS = {
    "service.hrd": "process.1 =\n    cmd:redis-server,\n    args:'--port $(param.port)',\n    ports:'$(param.port)',\n",
    "instance.hrd": "param.port = @ASK type:int default:6379 minValue:1 maxValue:65535\n",
}


def template(root: Path, name: str, files: Mapping[str, str] | None = None, *, below: str = "") -> Path:
    """Write a template; an empty service.hrd without files. below: a directory of servicetemplates/."""
    folder = root / "servicetemplates" / below / name
    folder.mkdir(parents=True)
    for path, text in ({"service.hrd": ""} if files is None else files).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return folder


def create(
    root: Path, name: str, instance: str = "main", *, data: Mapping[str, Any] | None = None, **more: Any
) -> Service:
    """Create a service as the command does, and return it as it is read afterwards."""
    return create_all(root, name, instance, data=data, **more)[-1]


def create_all(
    root: Path, name: str, instance: str = "main", *, data: Mapping[str, Any] | None = None, **more: Any
) -> list[Service]:
    """Create a service and what it needs; return them as they are read afterwards, in the order of writing."""
    answers = Answers([Source("-D", data or {})])
    request = Request(template=name, instance=instance, **{"answers": answers, **more})
    keys = [made.service.key for made in make(Repository.open(root), request)]
    services = Repository.open(root).services
    return [services[key] for key in keys]
