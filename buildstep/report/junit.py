"""JUnit XML: a suite per build, a case per step and per check, for every CI that draws test results.

There is no standard. What is written here is what all schemas in use have in common: those of Jenkins'
xunit-plugin (junit-8, -9, -10), and the one that Jenkins' own publisher is described by.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import IO, Literal

from buildstep.report.event_log import step_tail
from buildstep.report.interface import Report
from buildstep.report.proofs import Proofs, proofs
from buildstep.report.record import BuildRecord, Check, ImageFile, Step, verify
from buildstep.system.text import plural, size_text

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One test case. result: how it ended, passed if empty; message, text: why, in a line and in full;
    output: what a case that passed has to say."""

    group: Literal["step", "check", "cleaner", "artifact", "component"]
    name: str
    seconds: float = 0.0
    result: Literal["", "failure", "error", "skipped"] = ""
    message: str = ""
    text: str = ""
    output: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """A suite of cases. title: its name; prefix: what the class names of its cases begin with; facts: its
    properties, of which empty ones are left out."""

    title: str
    prefix: str
    seconds: float
    started: datetime
    facts: Mapping[str, str]
    cases: Sequence[Case]


def render(records: Sequence[BuildRecord], out: IO[bytes]) -> None:
    """Write a testsuites document of build records."""
    write([_suite(record) for record in records], out)


def write(suites: Sequence[Suite], out: IO[bytes]) -> None:
    """Write a testsuites document."""
    top = ET.Element("testsuites", name="buildstep")
    top.extend(_suite_element(suite) for suite in suites)
    for key in ("tests", "failures", "errors"):  # no schema has `skipped` here
        top.set(key, str(sum(int(suite.get(key, "0")) for suite in top)))
    top.set("time", _time(sum(suite.seconds for suite in suites)))
    ET.indent(top)
    ET.ElementTree(top).write(out, encoding="utf-8", xml_declaration=True)
    out.write(b"\n")


def _suite(record: BuildRecord) -> Suite:
    proved = proofs(record)
    return Suite(
        title=record.title,
        # The version stays out of the class name: a CI compares cases between builds by it.
        prefix=record.name,
        seconds=record.seconds,
        started=record.started,
        facts={
            "build_id": record.build_id,
            "uuid": record.uuid,
            "image": record.base,
            "tree_digest": record.tree_digest,
            "exit_code": str(record.exit_code),
            "proofs": " ".join(file.name for file in proved.files),
            "signed_by": " ".join(proved.keys),
            "builder": proved.builder,
        },
        cases=list(_cases(record)),
    )


def _suite_element(suite: Suite) -> ET.Element:
    element = ET.Element(
        "testsuite",
        name=_xml(suite.title),
        time=_time(suite.seconds),
        timestamp=suite.started.strftime("%Y-%m-%dT%H:%M:%S"),
    )
    properties = ET.SubElement(element, "properties")
    for name, value in suite.facts.items():
        if value:
            ET.SubElement(properties, "property", name=name, value=_xml(value))
    element.extend(_element(suite.prefix, case) for case in suite.cases)
    for key, result in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        element.set(key, str(sum(case.result == result for case in suite.cases)))
    element.set("tests", str(len(suite.cases)))
    return element


def _element(prefix: str, case: Case) -> ET.Element:
    element = ET.Element(
        "testcase",
        classname=_xml(f"{prefix}.{case.group}"),
        name=_xml(case.name),
        time=_time(case.seconds),
    )
    if case.result == "skipped":
        ET.SubElement(element, "skipped", message=_xml(case.message))
    elif case.result:
        kind = case.name if case.group == "check" or case.result == "error" else case.group
        result = ET.SubElement(element, case.result, message=_xml(case.message), type=kind)
        result.text = _xml(case.text)
    elif case.output:
        ET.SubElement(element, "system-out").text = _xml(case.output)
    return element


def _time(seconds: float) -> str:
    """Return a duration in plain decimals. The log of a build whose clock was set back has negative ones."""
    return f"{seconds if 0 <= seconds < 1e9 else 0:.3f}"


def _xml(text: str) -> str:
    """Return what XML 1.0 can hold of a text; a tool's output may hold anything."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


# -- the cases of a build -----------------------------------------------------------------------------------


def _cases(record: BuildRecord) -> Iterator[Case]:
    for step in record.steps:
        yield _step(record, step)
    if not record.ok and not any(step.state == "failed" for step in record.steps):
        # It failed outside of every step: without a case of its own the suite would be green.
        message, text = _why(record, "the build failed")
        yield Case(group="step", name="build", result="error", message=message, text=text)
    yield from map(_check, record.checks)
    if record.audit is not None:
        yield _audit(record)
    if (proved := proofs(record)).scanned:
        yield _vulnerabilities(proved)
    for cleaner in record.cleaned:
        names = "\n".join(cleaner.names)
        removed = f"{plural(cleaner.paths, 'path')}, {size_text(cleaner.bytes)} removed\n{names}".rstrip()
        yield Case(group="cleaner", name=cleaner.cleaner, output=removed if cleaner.paths else "")
    if record.ok:
        yield _entropy(record)
    for file in record.artifacts:
        yield _artifact(record, file)


def _step(record: BuildRecord, step: Step) -> Case:
    case = Case(group="step", name=step.name, seconds=step.seconds)
    if step.state == "skip":
        return replace(case, result="skipped", message=step.reason)
    if step.state == "failed":
        message, text = _why(record, step.reason or "the step failed")
        if tail := step_tail(record.events, step.name):
            text = "\n".join([text, "", "last output:", *tail])
        return replace(case, result="failure", message=message, text=text)
    prefix = "reused: " if step.state == "reuse" else ""
    return replace(case, output=prefix + step.reason if step.reason else "")


def _why(record: BuildRecord, reason: str) -> tuple[str, str]:
    """Return a failure's one line and its whole text."""
    error = record.error
    if error is None:
        return reason, reason
    message = error.message or reason
    hint = f"hint: {error.hint}" if error.hint else ""
    return message, "\n".join(part for part in (message, error.detail, hint) if part)


def _check(check: Check) -> Case:
    """Return the case of a check; a warning is a case that passed and has something to say."""
    name = check.check if check.group == "rule" else f"{check.group}: {check.check}"
    text = "\n".join(check.lines)
    case = Case(group="check", name=name, seconds=check.seconds, output=text)
    if check.result == "failed":
        return replace(case, result="failure", message=check.message, text=text)
    return replace(case, result="skipped", message=check.message) if check.result == "skipped" else case


def _audit(record: BuildRecord) -> Case:
    if not record.findings:
        return Case(group="check", name="audit")
    packages = {row.package for row in record.findings}
    return Case(
        group="check",
        name="audit",
        result="failure",
        message=f"{plural(len(record.findings), 'finding')} in {plural(len(packages), 'package')}",
        text="\n".join(
            f"{row.package} {row.version}: {row.problem}{f' ({row.url})' if row.url else ''}"
            for row in record.findings
        ),
    )


def _vulnerabilities(proved: Proofs) -> Case:
    """Return the case of the gate for known vulnerabilities: what it let pass is what it has to say."""
    case = Case(group="check", name="vulnerabilities")
    lines = [f"{row.line}: {row.verdict}" for row in proved.told]
    if not (counted := proved.counted):
        return replace(case, output="\n".join(lines))
    noun = "vulnerability fails" if len(counted) == 1 else "vulnerabilities fail"
    message = f"{len(counted):,} known {noun} the gate"
    return replace(case, result="failure", message=message, text="\n".join(lines))


def _entropy(record: BuildRecord) -> Case:
    """Return a failure only if the build was asked to be reproducible: nobody else needs it."""
    text = "\n".join(record.entropy)
    if not (record.entropy and record.reproducible):
        return Case(group="check", name="entropy", output=text)
    message = f"{plural(len(record.entropy), 'file')} will differ in the next build"
    return Case(group="check", name="entropy", result="failure", message=message, text=text)


def _artifact(record: BuildRecord, file: ImageFile) -> Case:
    verdict = verify(record, file)
    case = Case(group="artifact", name=file.name, output=verdict.text)
    if verdict.good is None:
        return replace(case, result="skipped", message=verdict.text)
    return case if verdict.good else replace(case, result="failure", message=verdict.text, text=verdict.text)


REPORT = Report(".xml", render)
