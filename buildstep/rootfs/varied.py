"""What a process that proves a build adds to the environment of commands in images: nothing in any other."""

from __future__ import annotations

ENVIRONMENT: dict[str, str] = {}
"""Variables. They are set once, before anything runs, in the process of one build that is compared with
another (`build.proving`)."""
