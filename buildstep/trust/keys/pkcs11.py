"""Keys of a token or an HSM by PKCS #11, named by a URI (RFC 7512) such as
`pkcs11:token=ci;object=release?module-path=/usr/lib/softhsm/libsofthsm2.so`.

The package python-pkcs11 loads the token's library; the PIN comes from the URI's `pin-source` or `pin-value`,
from the variables of `trust.keys.passwords`, or from the terminal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from buildstep.errors import SigningError, ToolMissing
from buildstep.system import masking
from buildstep.trust.keys.interface import KeySource, Signer
from buildstep.trust.keys.passwords import WrongPassword, opened
from buildstep.trust.keys.public import Message, PublicKey, public_key, serialization_library

MODULE = "BUILDSTEP_PKCS11_MODULE"
"""The variable: the library of the token, where the URI does not name it."""

_PATH = {"token", "manufacturer", "serial", "model", "object", "id", "type", "slot-id"}
_QUERY = {"module-path", "pin-value", "pin-source"}
_EXAMPLE = "pkcs11:token=NAME;object=LABEL?module-path=/usr/lib/....so"

_SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
"""What PKCS #1 puts before a SHA-256 (RFC 8017, 9.2)."""


@dataclass(frozen=True, slots=True)
class _Uri:
    """A URI that was read. shown: of it, what may be in a message."""

    shown: str
    path: Mapping[str, str]
    ident: bytes | None
    query: Mapping[str, str]


def from_token(text: str, source: KeySource) -> Signer:
    """Return the key of a token. text: the URI without its scheme. See `Kind`."""
    serialization_library()
    try:
        import pkcs11
    except ImportError as error:
        raise ToolMissing(
            "keys of tokens need the Python package python-pkcs11", hint="pip install 'buildstep[pkcs11]'"
        ) from error
    uri = _parsed(text)
    module = uri.query.get("module-path") or source.environ.get(MODULE, "")
    if not module:
        raise SigningError(
            f"{uri.shown} does not say which library speaks to its token",
            hint=f"add ?module-path=FILE.so, or put its path into {MODULE}",
        )
    try:
        library = pkcs11.lib(module)
    except (RuntimeError, pkcs11.PKCS11Error) as error:
        raise SigningError(f"cannot load {module}, the library of {uri.shown}", detail=str(error)) from error
    token = _token(library, uri)
    signer = _Key(token, uri, _pin(token, uri, source))
    return Signer(signer.public, uri.shown, signer.sign)


def _parsed(text: str) -> _Uri:
    path_text, _, query_text = text.partition("?")
    path = dict(part.split("=", 1) for part in path_text.split(";") if "=" in part)
    query = dict(part.split("=", 1) for part in query_text.split("&") if "=" in part)
    shown = f"pkcs11:{path_text}"
    unknown = sorted({*(path.keys() - _PATH), *(query.keys() - _QUERY)})
    loose = [part for part in (*path_text.split(";"), *query_text.split("&")) if part and "=" not in part]
    if unknown or loose or not path.keys() & {"object", "id"}:
        what = f"{', '.join(unknown)} is not known" if unknown else "it names no object and no id"
        raise SigningError(f"the key {shown} cannot be understood: {what}", hint=f"for example {_EXAMPLE}")
    ident = unquote_to_bytes(path.pop("id")) if "id" in path else None
    return _Uri(
        shown, {key: unquote(value) for key, value in path.items()}, ident,
        {key: unquote(value) for key, value in query.items()},
    )  # fmt: skip


def _token(library: Any, uri: _Uri) -> Any:
    """Return the one token that fits. Raises SigningError."""
    import pkcs11

    fields = {"token": "label", "manufacturer": "manufacturer_id", "serial": "serial", "model": "model"}
    found = []
    try:
        for slot in library.get_slots(token_present=True):
            if "slot-id" in uri.path and str(slot.slot_id) != uri.path["slot-id"]:
                continue
            token = slot.get_token()
            if all(
                _text(getattr(token, fields[name])) == uri.path[name] for name in fields if name in uri.path
            ):
                found.append(token)
    except pkcs11.PKCS11Error as error:
        raise SigningError(f"cannot look for the token of {uri.shown}: {_said(error)}") from error
    named = [token for token in found if _text(token.label)]
    if len(named) != 1:
        many = f"{len(named)} tokens fit" if named else "there is no such token"
        raise SigningError(f"{many}: {uri.shown}", hint="name one by token=LABEL; is it plugged in?")
    return named[0]


def _text(value: Any) -> str:
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value)).strip(" \0")


def _pin(token: Any, uri: _Uri, source: KeySource) -> str:
    """Return the PIN of a token, that was tried. Raises SigningError."""
    if place := uri.query.get("pin-source", "").removeprefix("file:"):
        try:
            value = Path(place).read_text().strip("\r\n")
        except OSError as error:
            raise SigningError(f"cannot read {place}, the PIN of {uri.shown}: {error.strerror}") from error
    else:
        value = uri.query.get("pin-value", "")
    if not value:
        return opened(f"the token of {uri.shown}", source, lambda word: _tried(token, word.decode(), uri))
    if len(value) >= masking.LEAST:
        source.bus.hide(masking.pattern([value]))
    try:
        return _tried(token, value, uri)
    except WrongPassword:
        raise SigningError(f"the PIN of the URI does not open the token of {uri.shown}") from None


def _tried(token: Any, pin: str, uri: _Uri) -> str:
    import pkcs11

    try:
        with token.open(user_pin=pin):
            return pin
    except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange, pkcs11.ArgumentsBad):
        raise WrongPassword from None
    except pkcs11.PKCS11Error as error:
        raise SigningError(f"cannot log in to the token of {uri.shown}: {_said(error)}") from error


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


class _Key:
    """A private key of a token; each signature is made in a session of its own."""

    def __init__(self, token: Any, uri: _Uri, pin: str) -> None:
        self._token, self._uri, self._pin = token, uri, pin
        with self._session() as session:
            self._one(session, private=True)
            self.public: PublicKey = self._public(session)

    def sign(self, message: Message) -> bytes:
        """See `Signer.sign`."""
        import pkcs11
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        with self._session() as session:
            key = self._one(session, private=True)
            try:
                if self.public.algorithm == "ed25519":
                    return bytes(key.sign(bytes(message), mechanism=pkcs11.Mechanism.EDDSA))
                digest = hashlib.sha256(message).digest()
                if self.public.algorithm == "rsa":
                    return bytes(key.sign(_SHA256_INFO + digest, mechanism=pkcs11.Mechanism.RSA_PKCS))
                pair = bytes(key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))
            except pkcs11.PKCS11Error as error:
                raise SigningError(f"{self._uri.shown} does not sign: {_said(error)}") from error
        half = len(pair) // 2
        return encode_dss_signature(int.from_bytes(pair[:half]), int.from_bytes(pair[half:]))

    def _session(self) -> Any:
        import pkcs11

        try:
            return self._token.open(user_pin=self._pin)
        except pkcs11.PKCS11Error as error:
            raise SigningError(f"cannot log in to the token of {self._uri.shown}: {_said(error)}") from error

    def _one(self, session: Any, *, private: bool) -> Any:
        """Return the one object that fits. Raises SigningError."""
        import pkcs11
        from pkcs11.constants import Attribute

        kind = pkcs11.ObjectClass.PRIVATE_KEY if private else pkcs11.ObjectClass.PUBLIC_KEY
        wanted: dict[Any, Any] = {Attribute.CLASS: kind}
        if "object" in self._uri.path:
            wanted[Attribute.LABEL] = self._uri.path["object"]
        if self._uri.ident is not None:
            wanted[Attribute.ID] = self._uri.ident
        found = list(session.get_objects(wanted))
        if len(found) != 1:
            many = f"{len(found)} {'private' if private else 'public'} keys" if found else "no such key"
            half = "" if private else ": its public half has to be there too"
            raise SigningError(
                f"the token has {many}{half}: {self._uri.shown}",
                hint="object= is the label of a key, id= its id",
            )
        return found[0]

    def _public(self, session: Any) -> PublicKey:
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
        from pkcs11 import KeyType
        from pkcs11.constants import Attribute

        key = self._one(session, private=False)
        with suppress(ValueError):
            if key.key_type == KeyType.RSA:
                exponent, modulus = (
                    int.from_bytes(key[name]) for name in (Attribute.PUBLIC_EXPONENT, Attribute.MODULUS)
                )
                return public_key(rsa.RSAPublicNumbers(exponent, modulus).public_key(), self._uri.shown)
            point = _octets(bytes(key[Attribute.EC_POINT]))
            if key.key_type == KeyType.EC:
                found = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
                return public_key(found, self._uri.shown)
            return public_key(ed25519.Ed25519PublicKey.from_public_bytes(point), self._uri.shown)
        raise SigningError(
            f"{self._uri.shown} is a key that does not do",
            hint="Ed25519, ECDSA on P-256, or RSA of 2048 bits",
        )


def _octets(value: bytes) -> bytes:
    """Return what a DER OCTET STRING of less than 128 bytes holds; a token may leave out the frame."""
    return value[2:] if len(value) > 2 and value[0] == 4 and value[1] == len(value) - 2 else value
