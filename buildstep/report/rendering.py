"""The templates of reports, and the one environment that renders them."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from importlib import resources
from typing import Any

from buildstep.report.words import STATES, brings, delta, safe_url, seconds_text, title
from buildstep.system.text import plural, size_text


def asset(name: str) -> str:
    """Return the text of a file in `templates/`."""
    return (resources.files("buildstep.report") / "templates" / name).read_text(encoding="utf-8")


def policy(css: str, script: str) -> str:
    """Return what a page may do: run its own script, use its own style, and load nothing."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src-elem '{_hash(css)}'; "
        "style-src-attr 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def environment() -> Any:
    """Return a jinja2 environment with our filters; text in HTML and SVG is escaped."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=jinja2.select_autoescape(("html.j2", "svg.j2")),
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    made.filters.update(
        size=size_text,
        took=seconds_text,
        brings=brings,
        layer_title=title,
        grouped="{:,}".format,
        safe_url=safe_url,
        pretty=functools.partial(json.dumps, indent=2, ensure_ascii=False),
    )
    made.globals.update(count_of=plural, delta=delta, states=STATES)
    return made
