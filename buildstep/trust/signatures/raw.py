"""Signatures without any form: their bytes in base64, as `cosign sign-blob --output-signature` writes them.

One names no key, so that it cannot be told whether the key is another one or the content is.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from buildstep.errors import SigningError
from buildstep.trust.keys.public import PublicKey
from buildstep.trust.signatures.content import Content
from buildstep.trust.signatures.interface import Checked


def check(signature: bytes, content: Content, keys: Sequence[PublicKey]) -> Checked:
    """See `Check`."""
    try:
        raw = base64.b64decode(b"".join(signature.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SigningError("the signature is no base64") from error
    signers = tuple(key for key in keys if key.verify(content.data, raw))
    return Checked(signers, (), () if signers else ("no key that is known has made it of these bytes",))
