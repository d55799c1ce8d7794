"""A finished image, as tests see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from buildstep.rootfs.run_config import RunConfig
from buildstep.rootfs.run_image import ImageSandbox
from buildstep.system.root import Root


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """config: how it is run; root: its finished tree, which nobody changes, if there is one on a disk; enter:
    enters a copy of that tree, which is thrown away when it is left; env: variables for every test."""

    config: RunConfig
    root: Root | None
    enter: Callable[[], AbstractContextManager[ImageSandbox]]
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def tree(self) -> Root:
        """The finished tree."""
        assert self.root is not None, "a build with such tests has its tree on a disk"
        return self.root


Test = Mapping[str, Any]
"""One test as `build.checks` has it, checked."""
