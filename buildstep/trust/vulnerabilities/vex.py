"""OpenVEX 0.2.0: statements of others about what is found here, and ours about an image.

A statement of others counts if it names the vulnerability, by any of its names, and a product that is the
package, its source package, or the image: then one of its subcomponents has to be the package, if it has any.
Of several the latest counts. That a distribution repairs nothing makes no product unaffected: we never say
so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from buildstep import __version__
from buildstep.errors import UsageError
from buildstep.trust.purl import PackageUrl, image_purl, parse
from buildstep.trust.vulnerabilities.model import Found, Result

CONTEXT: Final = "https://openvex.dev/ns/v0.2.0"
_LARGEST = 64 << 20
_STATUSES = frozenset({"not_affected", "affected", "fixed", "under_investigation"})
_DENYING = frozenset({"not_affected", "fixed"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """A product of a statement. purls: of itself; parts: of its subcomponents; id: as it is written;
    whole: whether it has no subcomponents, as no other name than a package URL is understood of them."""

    id: str
    purls: tuple[PackageUrl, ...] = ()
    parts: tuple[PackageUrl, ...] = ()
    whole: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A statement. time: when it was made, in seconds since 1970, 0 for no time; author: of its document."""

    names: frozenset[str]
    products: tuple[Product, ...]
    status: str
    justification: str
    reason: str
    time: float
    author: str


def load(path: Path) -> tuple[Said, ...]:
    """Read a document of OpenVEX. Raises UsageError for what is none."""
    try:
        with path.open("rb") as stream:
            value = json.loads(stream.read(_LARGEST))
        if not isinstance(value, Mapping) or not str(value.get("@context", "")).startswith(
            "https://openvex.dev/ns"
        ):
            raise ValueError("its @context is another")
        statements = value.get("statements")
        if not isinstance(statements, list):
            raise ValueError("it has no statements")
        return tuple(_said(value, row, number) for number, row in enumerate(statements))
    except OSError as error:
        raise UsageError(f"cannot read the VEX document {path}: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is no document of OpenVEX: {error}") from error


def _said(document: Mapping[str, Any], row: Mapping[str, Any], number: int) -> Said:
    told = row.get("vulnerability")
    names = [told] if isinstance(told, str) else [told.get("name"), *(told.get("aliases") or ())]  # type: ignore[union-attr]
    status = row.get("status")
    if status not in _STATUSES:
        raise ValueError(f"the status of statement {number} is {status!r}")
    if status == "not_affected" and not (row.get("justification") or row.get("impact_statement")):
        raise ValueError(f"statement {number} does not say why the product is not affected")
    return Said(
        names=frozenset(name for name in names if isinstance(name, str) and name),
        products=tuple(_product(product) for product in row.get("products") or ()),
        status=status,
        justification=str(row.get("justification") or ""),
        reason=str(
            row.get("impact_statement") or row.get("status_notes") or row.get("action_statement") or ""
        ),
        time=_seconds(row.get("last_updated") or row.get("timestamp") or document.get("timestamp")),
        author=str(document.get("author") or "somebody"),
    )


def _product(row: object) -> Product:
    if isinstance(row, str):
        row = {"@id": row}
    if not isinstance(row, Mapping):
        raise TypeError("a product is no object")
    named = row.get("subcomponents") or ()
    parts = [purl for part in named for purl in _purls(part)]
    ident = str(row.get("@id", ""))
    return Product(id=ident, purls=tuple(_purls(row)), parts=tuple(parts), whole=not named)


def _seconds(text: object) -> float:
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
        if found is None:
            return 0.0
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _purls(row: object) -> Iterator[PackageUrl]:
    if isinstance(row, str):
        row = {"@id": row}
    if not isinstance(row, Mapping):
        raise TypeError("a product is no object")
    identifiers = row.get("identifiers")
    purl = identifiers.get("purl") if isinstance(identifiers, Mapping) else None
    for text in (row.get("@id"), purl):
        if found := parse(text):
            yield found


def applied(result: Result, statements: Sequence[Said]) -> Result:
    """Return a result in which what a statement denies no longer counts."""
    rows = []
    for found in result.found:
        fitting = [
            said for said in statements if said.names & found.advisory.names and _about(said, result, found)
        ]
        # Of two of one time, the one that denies nothing.
        said = max(fitting, key=lambda one: (one.time, one.status not in _DENYING), default=None)
        if said is None or said.status not in _DENYING:
            rows.append(found)
            continue
        rows.append(
            replace(
                found,
                ruling="fixed" if said.status == "fixed" else "not_affected",
                reason=f"{said.author}: {said.reason or said.justification or said.status}",
                justification=said.justification,
            )
        )
    return replace(result, found=tuple(rows))


def _about(said: Said, result: Result, found: Found) -> bool:
    here = [purl for ref in found.matter.refs if (purl := parse(ref))]
    if found.matter.kind == "deb":
        # Of a source package, the name and the version; who writes of it says `arch=source`, or nothing.
        here += [
            purl._replace(
                name=found.matter.name,
                version=found.matter.version,
                qualifiers={**purl.qualifiers, "arch": "source"},
            )
            for purl in here
        ]
    for product in said.products:
        if any(given.fits(purl) for given in product.purls for purl in here):
            return True
        if _is_image(product, result) and (
            product.whole or any(given.fits(purl) for given in product.parts for purl in here)
        ):
            return True
    return False


def _is_image(product: Product, result: Result) -> bool:
    """Tell whether a product is the image: by its digest wherever it lies, or else by its name."""
    values = [value for value in result.digests.values() if value]
    digests = {*values, *(f"sha256:{value}" for value in values)}
    last = result.name.rpartition("/")[2].lower()
    for purl in product.purls:
        if purl.type == "oci" and purl.name == last and (not purl.version or purl.version in digests):
            return True
        if purl.type == "oci" and purl.version in digests:
            return True
        if purl.type == "generic" and purl.name == result.name and purl.version in ("", result.version):
            return True
    return product.id in digests


# -- what we say -----------------------------------------------------------------------------------------


def document(result: Result, *, now: float) -> bytes:
    """Return a document of OpenVEX about an image. now: its time. The same result is the same bytes."""
    value: dict[str, Any] = {
        "@context": CONTEXT,
        "author": "buildstep",
        "timestamp": _time(now),
        "version": 1,
        "tooling": f"buildstep {__version__}",
        "statements": [_statement(result, found) for found in result.found],
    }
    text = json.dumps(value, sort_keys=True).encode()
    value["@id"] = f"https://openvex.dev/docs/public/vex-{hashlib.sha256(text).hexdigest()}"
    return json.dumps(value, sort_keys=True, indent=2).encode() + b"\n"


def _statement(result: Result, found: Found) -> dict[str, Any]:
    product: dict[str, Any] = {"@id": product_purl(result)}
    if found.matter.refs:
        product["subcomponents"] = [{"@id": ref} for ref in found.matter.refs]
    advisory = found.advisory
    row: dict[str, Any] = {
        "vulnerability": {
            "name": found.id,
            "aliases": list(advisory.aliases),
            "description": advisory.summary,
        },
        "products": [product],
    }
    row["vulnerability"] = {key: value for key, value in row["vulnerability"].items() if value}
    if found.ruling == "not_affected" or (found.ruling == "exception" and found.justification):
        row["status"] = "not_affected"
        if found.justification:
            row["justification"] = found.justification
        row["impact_statement"] = found.reason
    elif found.ruling == "fixed":
        row["status"], row["status_notes"] = "fixed", found.reason
    elif advisory.state == "undetermined":
        row["status"], row["status_notes"] = "under_investigation", advisory.note or "not determined yet"
    else:
        row["status"], row["action_statement"] = "affected", _action(found)
    return row


def product_purl(result: Result) -> str:
    """Return what names an image: by its digest if it has one, else by name and version."""
    from urllib.parse import quote

    if purl := image_purl(result.name, result.digests.get("oci", "")):
        return purl
    version = f"@{quote(result.version, safe=':~')}" if result.version else ""
    return f"pkg:generic/{quote(result.name, safe=':~')}{version}"


def _action(found: Found) -> str:
    advisory = found.advisory
    if found.ruling == "exception":
        return f"accepted until {found.until}: {found.reason}"
    match advisory.state:
        case "fixed":
            return f"update {found.matter.name} to {advisory.fixed}"
        case "wont-fix":
            return f"the distribution does not repair it: {advisory.note}".rstrip(": ")
        case "end-of-life":
            return "nobody repairs this package any more: replace it"
        case "unimportant":
            return "none: the distribution takes it for no problem of security in its packages"
        case "minor" | "postponed":
            return f"a later update of the distribution may repair it: {advisory.note}".rstrip(": ")
        case _:
            return "no version that repairs it is known yet"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
