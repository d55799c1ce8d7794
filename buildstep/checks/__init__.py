"""Whether a finished image is what it has to be. A new rule is one row here and one function beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from buildstep.checks.interface import Rule
from buildstep.spec.check_rules import RULES as NAMES
from buildstep.spec.check_rules import Severity

RULES = (
    Rule("dangling-link", "links lead to something in the image", "links:dangling", of_packages=False),
    Rule("shebang", "scripts have an interpreter in the image", "programs:shebang", of_packages=False),
    Rule("library", "programs have their loader and libraries", "programs:library", of_packages=False),
    Rule("host-path", "no text names a place of the CI host", "texts:host_path", of_packages=False),
    Rule("world-writable", "nobody but its owner and group can write a file", "modes:world_writable"),
    Rule("setuid", "no program gets the rights of another user", "modes:setuid"),
    Rule("capability", "no program gets capabilities", "modes:capability"),
    Rule("unknown-owner", "owners are in the image's /etc/passwd and group", "modes:unknown_owner"),
    Rule("budget", "the tree is not larger than its budget", "modes:budget"),
)
"""What every image is held to, a row a rule, in the order in which they are told."""


def in_force(checks: Mapping[str, Any]) -> Iterator[tuple[Rule, Severity]]:
    """Yield the rules that `build.checks` leaves in force, each with what a finding leads to."""
    given: Mapping[str, Severity] = checks.get("rules", {})
    for rule in RULES:
        severity = given.get(rule.name, NAMES[rule.name])
        if severity != "off" and (rule.name != "budget" or "budget" in checks):
            yield rule, severity
