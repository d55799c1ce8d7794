"""What the configuration of an OCI image may say, as rules for JSON values."""

from __future__ import annotations

from typing import Final

from buildstep.spec.run_rules import ENV
from buildstep.spec.schema import Rule, array, mapping, record, text

_PLAIN = r"\x00-\x1f\x7f"
_LINE = text(rf"[^{_PLAIN}]*", say="one line")
_NO_NUL = text(r"[^\x00]*", say="free of NUL", least=0)
_ABSOLUTE = text(rf"/[^{_PLAIN}]*", say="an absolute path")
_WHO = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6([0-4][0-9]{3}|5([0-4][0-9]{2}|5([0-2][0-9]|3[0-5]))))"

OCI: Final[Rule] = record(
    {
        "entrypoint": array(_NO_NUL),
        "cmd": array(_NO_NUL),
        "env": ENV,
        "user": text(f"{_WHO}(:{_WHO})?", say="USER or USER:GROUP"),
        "workdir": _ABSOLUTE,
        "expose": array(text(f"{_PORT}(/(tcp|udp|sctp))?", say="a port such as 80 or 53/udp")),
        "volumes": array(_ABSOLUTE),
        "labels": mapping(_NO_NUL, keys=_LINE),
        "annotations": mapping(_NO_NUL, keys=_LINE),
        "stop_signal": text("SIG[A-Z0-9+-]+|[1-9][0-9]?", say="a signal such as SIGTERM"),
        "architecture": text("[a-z0-9]+(/v[0-9]+)?", say="an architecture such as amd64 or arm/v7"),
    }
)
"""The setting `oci`."""
