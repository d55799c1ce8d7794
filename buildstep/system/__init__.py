"""The machine: processes, files, locks, mounts. No word of images."""
