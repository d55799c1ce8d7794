"""What an image is made of: its packages, by every database in it, and the files that no package owns."""

from __future__ import annotations

from buildstep.system.registry import Registry, importing
from buildstep.trust.inventory.interface import Database

DATABASES: Registry[Database] = Registry(
    "inventory",
    "database of packages",
    {
        "dpkg": importing("buildstep.trust.inventory.dpkg:DATABASE"),
        "apk": importing("buildstep.trust.inventory.apk:DATABASE"),
        "rpm": importing("buildstep.trust.inventory.rpm:DATABASE"),
        "pkgsrc": importing("buildstep.trust.inventory.pkgsrc:DATABASE"),
        "python": importing("buildstep.trust.inventory.python_packages:DATABASE"),
        "npm": importing("buildstep.trust.inventory.npm:DATABASE"),
        "programs": importing("buildstep.trust.inventory.programs:DATABASE"),
        "others": importing("buildstep.trust.inventory.others:DATABASE"),
    },
)
"""One row a database, in the order in which they are read: those of whole systems first, as the packages of
languages that they installed are theirs."""
