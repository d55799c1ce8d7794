"""The shared cache of a command: what its flags, the m.json, the configuration and variables say together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from buildstep.spec import shared_cache

if TYPE_CHECKING:
    from buildstep.spec.config import Config
    from buildstep.spec.fields import BuildSpec
    from buildstep.spec.shared_cache import SharedCache

_OF_FLAGS: Final = {"shared": "shared_cache", "required": "cache_required", "trust": "cache_trust"}
"""What flags say, by the key that says it elsewhere."""


def of_build(spec: BuildSpec, config: Config) -> SharedCache | None:
    """Return the shared cache of a build, None where it has none. Raises SpecError with every fault."""
    flags, variables = (
        {key: getattr(spec, name) for key, name in _OF_FLAGS.items() if spec.origin_of[name] == origin}
        for origin in ("flag", "environment")
    )
    return shared_cache.merged(spec.cache, flags, {**variables, **config.shared}, os.environ, Path.cwd())
