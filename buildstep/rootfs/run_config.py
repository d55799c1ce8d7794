"""How an image is run: the part of an OCI configuration that says so (image-spec config.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from buildstep.system.process import SAFE_PATH


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """entrypoint, cmd: None where the image has none. env: with PATH. user: as the image has it, a name or a
    number, perhaps with a group; empty for root. ports: such as 80/tcp."""

    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = "/"
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> RunConfig:
        """Return what the `config` object of an image's configuration says; its values are sound."""
        env = dict(row.partition("=")[::2] for row in config.get("Env") or ())
        return cls(
            entrypoint=_words(config.get("Entrypoint")),
            cmd=_words(config.get("Cmd")),
            env={"PATH": SAFE_PATH} | env,
            user=str(config.get("User") or ""),
            workdir=str(config.get("WorkingDir") or "/"),
            ports=tuple(config.get("ExposedPorts") or ()),
            volumes=tuple(config.get("Volumes") or ()),
            labels=dict(config.get("Labels") or {}),
            stop_signal=str(config.get("StopSignal") or ""),
        )

    @property
    def path(self) -> str:
        """Where programs are looked for."""
        return self.env["PATH"]

    @property
    def argv(self) -> tuple[str, ...]:
        """What the image runs; empty where it does not say."""
        return (*(self.entrypoint or ()), *(self.cmd or ()))


def _words(value: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)
