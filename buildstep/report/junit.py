"""JUnit XML: a suite per build, a case per step and per check, for every CI that draws test results."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from buildstep.report.event_log import step_tail
from buildstep.report.record import BuildRecord, ImageFile, Step, verify
from buildstep.system.text import plural, size_text

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(records: Sequence[BuildRecord], events: Sequence[Path | None], out: IO[bytes]) -> None:
    """Write a testsuites document."""
    top = ET.Element("testsuites", name="buildstep")
    for record, log in zip(records, events, strict=True):
        top.append(_suite(record, log))
    for key in ("tests", "failures", "errors", "skipped"):
        top.set(key, str(sum(int(suite.get(key, "0")) for suite in top)))
    top.set("time", f"{sum(record.seconds for record in records):.3f}")
    ET.indent(top)
    ET.ElementTree(top).write(out, encoding="utf-8", xml_declaration=True)
    out.write(b"\n")


def _suite(record: BuildRecord, log: Path | None) -> ET.Element:
    suite = ET.Element(
        "testsuite",
        name=_xml(record.title),
        time=f"{record.seconds:.3f}",
        timestamp=record.started.strftime("%Y-%m-%dT%H:%M:%S"),
    )
    told = ET.SubElement(suite, "properties")
    facts = {
        "build_id": record.build_id,
        "uuid": record.uuid,
        "image": record.base,
        "tree_digest": record.tree_digest,
        "exit_code": str(record.exit_code),
    }
    for name, value in facts.items():
        if value:
            ET.SubElement(told, "property", name=name, value=_xml(value))
    for step in record.steps:
        suite.append(_step(record, step, log))
    if not record.ok and not any(step.state == "failed" for step in record.steps):
        # It failed outside of every step: without a case of its own the suite would be green.
        case = _case(record, "step", "build")
        message, text = _why(record, "the build failed")
        _verdict(case, "error", message, "build", text)
        suite.append(case)
    suite.extend(_checks(record))
    cases = suite.findall("testcase")
    for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(key, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("tests", str(len(cases)))
    return suite


def _step(record: BuildRecord, step: Step, log: Path | None) -> ET.Element:
    case = _case(record, "step", step.name, step.seconds)
    if step.state == "skip":
        ET.SubElement(case, "skipped", message=_xml(step.reason))
    elif step.state == "failed":
        message, text = _why(record, step.reason or "the step failed")
        tail = step_tail(log, step.name)
        if tail:
            text += "\n\nlast output:\n" + "\n".join(tail)
        _verdict(case, "failure", message, "step", text)
    elif step.reason:
        prefix = "reused: " if step.state == "reuse" else ""
        _say(case, prefix + step.reason)
    return case


def _checks(record: BuildRecord) -> list[ET.Element]:
    cases: list[ET.Element] = []
    if record.audit is not None:
        case = _case(record, "check", "audit")
        lines = [
            f"{row.package} {row.version}: {row.problem}{f' ({row.url})' if row.url else ''}"
            for row in record.findings
        ]
        if lines:
            packages = len({row.package for row in record.findings})
            message = f"{plural(len(lines), 'finding')} in {plural(packages, 'package')}"
            _verdict(case, "failure", message, "audit", "\n".join(lines))
        cases.append(case)
    for cleaner in record.cleaned:
        case = _case(record, "cleaner", cleaner.cleaner)
        if cleaner.paths:
            first = "\n".join(cleaner.names)
            _say(
                case, f"{plural(cleaner.paths, 'path')}, {size_text(cleaner.bytes)} removed\n{first}".rstrip()
            )
        cases.append(case)
    if record.ok:
        cases.append(_entropy(record))
    cases.extend(_artifact(record, artifact) for artifact in record.artifacts)
    return cases


def _entropy(record: BuildRecord) -> ET.Element:
    """A failure only where the build was asked to be reproducible: nobody else needs it."""
    case = _case(record, "check", "entropy")
    text = "\n".join(record.entropy)
    if record.entropy and record.reproducible:
        message = f"{plural(len(record.entropy), 'file')} will differ in the next build"
        _verdict(case, "failure", message, "entropy", text)
    elif record.entropy:
        _say(case, text)
    return case


def _artifact(record: BuildRecord, artifact: ImageFile) -> ET.Element:
    case = _case(record, "artifact", artifact.name)
    verdict = verify(record, artifact)
    if verdict.good is None:
        ET.SubElement(case, "skipped", message=_xml(verdict.text))
    elif verdict.good:
        _say(case, verdict.text)
    else:
        _verdict(case, "failure", verdict.text, "artifact", verdict.text)
    return case


def _why(record: BuildRecord, reason: str) -> tuple[str, str]:
    """A failure's one line and its whole text."""
    error = record.error
    if error is None:
        return reason, reason
    hint = f"hint: {error.hint}" if error.hint else ""
    message = error.message or reason
    return message, "\n".join(part for part in (message, error.detail, hint) if part)


def _case(record: BuildRecord, group: str, name: str, seconds: float = 0.0) -> ET.Element:
    # The version stays out of the class name: a CI compares cases between builds by it.
    return ET.Element(
        "testcase", classname=_xml(f"{record.name}.{group}"), name=_xml(name), time=f"{seconds:.3f}"
    )


def _verdict(case: ET.Element, tag: str, message: str, kind: str, text: str) -> None:
    element = ET.SubElement(case, tag, message=_xml(message), type=kind)
    element.text = _xml(text)


def _say(case: ET.Element, text: str) -> None:
    ET.SubElement(case, "system-out").text = _xml(text)


def _xml(text: str) -> str:
    """What XML 1.0 can hold of a text; a tool's output may hold anything."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
