"""An illumos zone as far as it can be had on Linux: a launcher, and tools that record and stand in."""


def tools_named() -> tuple[str, ...]:
    """The tools that have a stand-in."""
    return ("mount", "umount", "zfs", "rsync", "chroot", "ctrun", "zonename")
