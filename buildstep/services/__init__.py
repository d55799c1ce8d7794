"""Services: templates with parameters, instances of them, and a life cycle of actions, here and on nodes.

One table: the places where actions run.
"""

from __future__ import annotations

from collections.abc import Callable

from buildstep.services.interface import Place, Where
from buildstep.system.registry import Registry, importing

PlaceMaker = Callable[[Where], Place]
"""Makes a place; nothing is reached, read or written yet. Raises UsageError."""

PLACES: Registry[PlaceMaker] = Registry(
    "places",
    "place",
    {
        "mgmt": importing("buildstep.services.places.here:Management"),
        "node": importing("buildstep.services.places.here:Node"),
        "ssh": importing("buildstep.services.places.ssh:Ssh"),
        "image": importing("buildstep.services.places.image:Image"),
    },
)
