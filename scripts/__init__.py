"""Tools for developers of buildstep; they are not installed with it."""
