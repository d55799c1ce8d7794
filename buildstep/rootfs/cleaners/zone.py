"""The cleaner of a zone's own configuration."""

from __future__ import annotations

from buildstep.rootfs.cleaners.interface import Cleaning, measure
from buildstep.system.remove import remove_tree
from buildstep.system.root import Root


def clean(work: Cleaning) -> None:
    """Remove config/ beside root/, which has the metadata, addresses and names of one zone."""
    zone = work.options.zone
    if zone is None:
        return
    config = zone / "config"
    if config.is_symlink() or not config.is_dir():
        return
    paths, size = measure(Root(zone), "/config", config.lstat())
    remove_tree(config)
    work.count("config/", size, paths=paths)
