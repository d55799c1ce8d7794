"""The licences of a document: LicenseRefs mean one text each, wherever in it they are named."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from buildstep.trust.inventory.model import License

_REF = re.compile(r"LicenseRef-[^\s()]*")
_FORBIDDEN = re.compile(r"[^A-Za-z0-9.-]+")


class Licenses:
    """Gathers the licences of one document. texts: of all LicenseRefs that were named so far."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    @property
    def texts(self) -> Mapping[str, str]:
        return dict(sorted(self._texts.items()))

    def expression(self, license_: License) -> str:
        """Return a licence's expression for this document; empty for none.

        Two packages may mean different texts by one name: then the name that comes later gets a digest of its
        text behind it. A reference without a text stands for itself.
        """
        return _REF.sub(lambda found: self._named(found[0], license_.texts), license_.expression.strip())

    def _named(self, ref: str, texts: Mapping[str, str]) -> str:
        name = _FORBIDDEN.sub("-", ref)
        name = f"{name}unnamed" if name == "LicenseRef-" else name
        said = texts.get(ref, "").strip()
        text = said or f"The licence is called {ref.removeprefix('LicenseRef-')}; its text is not known."
        if self._texts.setdefault(name, text) != text:
            name = f"{name}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]}"
            self._texts[name] = text
        return name

    def refs(self, expression: str) -> list[str]:
        """Return the LicenseRefs of an expression, each once, sorted."""
        return sorted({*_REF.findall(expression)})
