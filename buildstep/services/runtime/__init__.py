"""What runs actions, wherever they run: the standard library alone, and nothing else of buildstep.

It is started as `python3 -I DIRECTORY WORD`, and imports nothing that Python 3.9 lacks. In an action's file:
`from buildstep.services.runtime import ActionsBaseNode, Failure`.
"""

from __future__ import annotations

from buildstep.services.runtime.answers import Failure
from buildstep.services.runtime.defaults import ActionsBaseMgmt, ActionsBaseNode, ActionsBaseTmpl
from buildstep.services.runtime.service import Service

__all__ = ["ActionsBaseMgmt", "ActionsBaseNode", "ActionsBaseTmpl", "Failure", "Service"]
