"""The input of a build, checked."""
