"""Filling in what templates ask: by what is given, the template's arguments, a person, the default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from buildstep.errors import Fault, SpecError
from buildstep.services.answers import MISSING, Answers, Prompt
from buildstep.services.create_requests import Draft
from buildstep.services.hrd import Ask, parse
from buildstep.services.repository import PRODUCER, hrd_value
from buildstep.services.secrets import is_reference, is_secret_name, plain_fault, reference_fault
from buildstep.services.templates import INSTANCE, Template
from buildstep.spec.schema import near

ALWAYS = ("tcp.addr", "node.tcp.addr", "ssh.port", "system.paths.", "timeout.", "tries.")
"""Parameters that every service may be given, whether its template has them or not."""


def fill(draft: Draft, answers: Answers, prompt: Prompt | None, *, asked: bool) -> list[Fault]:
    """Give a draft its instance.hrd: the template's, with answers in it. Returns all that is wrong.

    asked: whether it is the service that was asked for: answers that name none are for it.
    """
    where = f"{draft.text}: {INSTANCE} of template {draft.template}"
    template = draft.template.instance
    document = parse(str(template), where=where)
    questions = template.asks()
    faults: list[Fault] = []
    values: dict[str, Any] = {}
    for key, ask in questions.items():
        given = answer_for(draft, key, ask, answers, prompt, asked=asked, faults=faults)
        if given is MISSING:
            continue
        if (value := answered(ask, key, given, f"{where}: {key}", faults)) is not MISSING:
            values[key] = value
    for key, value in _others(draft, answers, questions, asked=asked).items():
        if is_secret_name(key) and value and not is_reference(value):
            faults.append(plain_fault(f"{where}: {key}", key))
        values[key] = value
    if draft.parent is not None:
        values["parent"] = draft.parent.key
    values.update({f"{PRODUCER}{role}": list(keys) for role, keys in draft.producers.items()})
    for key, value in values.items():
        try:
            document.set(key, hrd_value(value))
        except SpecError as error:
            faults += error.faults
    draft.instance = document
    return faults


def answer_for(
    draft: Draft,
    key: str,
    ask: Ask,
    answers: Answers,
    prompt: Prompt | None,
    *,
    asked: bool,
    faults: list[Fault],
) -> Any:
    """Return the answer to a question: one that is given, the template's argument, a person's, the default.
    MISSING, with a fault, where there is none."""
    given = answers.find(draft.key, key, plain=asked)
    if given is MISSING:
        given = draft.arguments.get(key, MISSING)
    if given is MISSING and prompt is not None:
        given = prompt(draft.text, key, ask)
    if given is MISSING and ask.default is not None:
        given = ask.default
    if given is MISSING:
        where = f"{draft.text}: {INSTANCE} of template {draft.template}"
        about = f": {ask.description}" if ask.description else ""
        hint = f"-D {key}=VALUE" if asked else f"-D {draft.key.name}.{draft.key.instance}.{key}=VALUE"
        faults.append(Fault(where=where, message=f"{key} is asked and not answered", hint=f"{hint}{about}"))
    return given


def answered(ask: Ask, key: str, given: Any, where: str, faults: list[Fault]) -> Any:
    """Return the typed value of an answer, MISSING with a fault for one that is none."""
    if is_reference(given):
        if fault := reference_fault(given, where):
            faults.append(fault)
            return MISSING
        return given
    if (ask.secret or is_secret_name(key)) and given != "":
        faults.append(plain_fault(where, key))
        return MISSING
    text = answer_text(given)
    if "$(" in text:  # what it stands for is known, and checked, when the service is looked at
        return f"{ask.prefix}{text}"
    value = ask.check(text, where)
    if isinstance(value, Fault):
        faults.append(value)
        return MISSING
    return value


def answer_text(given: Any) -> str:
    """Return an answer, which TOML or JSON may have typed, as a person would type it."""
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, Mapping):
        return ", ".join(f"{key}:{_quoted(value)}" for key, value in given.items())
    if isinstance(given, list | tuple):
        return ", ".join(map(_quoted, given))
    return "" if given is None else str(given)


def _quoted(value: Any) -> str:
    text = answer_text(value)
    return f"'{text}'" if not text or set(text) & set(" ,:#[]") else text


def _others(draft: Draft, answers: Answers, questions: Mapping[str, Ask], *, asked: bool) -> dict[str, Any]:
    """Return what is given for parameters that are not asked: the template's own value is replaced."""
    found: dict[str, Any] = {}
    for key in draft.arguments:
        if key not in questions:
            found[key] = draft.arguments[key]
    for key in answers.given(draft.key, plain=asked):
        if key not in questions and _may_have(draft.template, key):
            found[key] = answers.find(draft.key, key, plain=asked)
    return found


def _may_have(template: Template, key: str) -> bool:
    known = template.schema is not None and key in template.schema.fields
    return known or key in template.instance or key.startswith(ALWAYS)


def unknown(drafts: Sequence[Draft], asked: Draft, answers: Answers) -> list[Fault]:
    """Return a fault for each answer that nothing asks for, as a mistyped one would be lost: any in an
    option; in a file, which may be for many services, those that name one of the drafts."""
    faults = []
    for source in answers.sources:
        for full in source.values:
            named = next((draft for draft in drafts if draft.named(full)), None)
            draft = named or asked
            key = full.removeprefix(draft.named(full))
            if (named or source.strict) and not _asks_for(draft.template, key):
                document = draft.template.instance
                hint = near(key, document) or (f"it has {', '.join(document)}" if document else "it has none")
                message = f"{key} is no parameter of {draft.template}"
                faults.append(Fault(where=source.name, message=message, hint=hint))
    return faults


def _asks_for(template: Template, key: str) -> bool:
    """Return whether a key is a parameter, or a part of one that is a table or a list."""
    asked = template.instance.asks()
    parts = any(name.startswith(f"{key}.") or key.startswith(f"{name}.") for name in asked)
    return parts or _may_have(template, key)
