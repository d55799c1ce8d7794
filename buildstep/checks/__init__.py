"""Whether a finished image is what it has to be. A new rule is one row here and one function beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from buildstep.checks.interface import Kind, Rule
from buildstep.spec.check_rules import RULES as NAMES
from buildstep.spec.check_rules import Severity

RULES = (
    Rule("dangling-link", "links lead to something in the image", "links:dangling", of_packages=False),
    Rule("shebang", "scripts have an interpreter in the image", "programs:shebang", of_packages=False),
    Rule("library", "programs have their loader and libraries", "programs:library", of_packages=False),
    Rule("host-path", "no text names a place of the CI host", "texts:host_path", of_packages=False),
    Rule("secret", "no file has a secret in it", "texts:secret", of_packages=False),
    Rule("world-writable", "nobody but its owner and group can write a file", "modes:world_writable"),
    Rule("setuid", "no program gets the rights of another user", "modes:setuid"),
    Rule("capability", "no program gets capabilities", "modes:capability"),
    Rule("unknown-owner", "owners are in the image's /etc/passwd and group", "modes:unknown_owner"),
    Rule("budget", "the tree is not larger than its budget", "modes:budget"),
)
"""What every image is held to, a row a rule, in the order in which they are told."""

KINDS = (
    Kind("fileExistenceTests", "file", "file_tests:existence"),
    Kind("fileContentTests", "content", "file_tests:content"),
    Kind("metadataTest", "metadata", "metadata_test:run"),
    Kind("commandTests", "command", "command_tests:run"),
    Kind("goss", "goss", "goss:run"),
    Kind("listen", "listen", "listen:run"),
)
"""What an m.json may ask of its image, a row a kind of test, in the order in which they are done: first what
takes no time."""


def in_force(checks: Mapping[str, Any]) -> Iterator[tuple[Rule, Severity]]:
    """Yield the rules that `build.checks` leaves in force, each with what a finding leads to."""
    given: Mapping[str, Severity] = checks.get("rules", {})
    for rule in RULES:
        severity = given.get(rule.name, NAMES[rule.name])
        if severity != "off" and (rule.name != "budget" or "budget" in checks):
            yield rule, severity


def asked(checks: Mapping[str, Any]) -> Iterator[tuple[Kind, Mapping[str, Any]]]:
    """Yield the tests that `build.checks` has, each with its kind."""
    for kind in KINDS:
        tests = checks.get(kind.key) or ()
        for test in [tests] if isinstance(tests, Mapping) else tests:
            yield kind, test
