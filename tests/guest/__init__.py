"""A throw-away QEMU guest with a real ZFS, for the tests that need one."""
