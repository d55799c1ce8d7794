"""Patches: a zstd frame that says what to make of bytes that the reader has, as `zstd --patch-from` does.

The old bytes are the frame's dictionary, as raw content (RFC 8878, section 5: a dictionary without a header).
With matches looked for over the whole of it, a rebuilt program takes a third to a twentieth of its size.
"""

from __future__ import annotations

import importlib
from typing import Any, cast

from buildstep.formats.codecs import codec

LARGEST = 32 << 20
"""Bytes of the old and of the new content, at most: what both sides hold in memory."""
_LEVEL = 9
"""Measured on two versions of libssl, perl and Python: level 16 wins a tenth and costs ten times the time."""
_TABLES = 23, 24
"""Logarithms of the sizes of the match finder's tables: with the level's own, it looks only at the end of a
dictionary of some megabytes."""


def _library() -> Any:
    codec("zstd")  # says what to install
    return cast(Any, importlib.import_module("zstandard"))


def _window_log(size: int) -> int:
    return min(27, max(18, size.bit_length()))


def make(new: bytes, old: bytes) -> bytes:
    """Return the frame that makes `new` of `old`. Raises ToolMissing."""
    assert len(new) <= LARGEST and len(old) <= LARGEST  # noqa: PT018  (one limit for both)
    library = _library()
    window = _window_log(len(new) + len(old))
    parameters = library.ZstdCompressionParameters.from_level(
        _LEVEL,
        source_size=len(new),
        dict_size=len(old),
        window_log=window,
        hash_log=min(_TABLES[0], window),
        chain_log=min(_TABLES[1], window),
        enable_ldm=True,
        write_checksum=True,
        write_content_size=True,
    )
    compressor = library.ZstdCompressor(compression_params=parameters, dict_data=_dictionary(library, old))
    return bytes(compressor.compress(new))


def apply(frame: bytes, old: bytes, size: int) -> bytes:
    """Return what a frame makes of the old bytes. size: what it must have, found out before anything is made.

    Raises ValueError for anything else, ToolMissing.
    """
    library = _library()
    try:
        if library.get_frame_parameters(frame).content_size != size or size > LARGEST:
            raise ValueError("a patch makes another number of bytes than it should")
        expander = library.ZstdDecompressor(
            dict_data=_dictionary(library, old), max_window_size=1 << _window_log(2 * LARGEST)
        )
        return bytes(expander.decompress(frame)) if size else b""
    except library.ZstdError as error:
        raise ValueError(f"a patch cannot be applied: {error}") from error


def _dictionary(library: Any, old: bytes) -> Any:
    return library.ZstdCompressionDict(old, dict_type=library.DICT_TYPE_RAWCONTENT) if old else None
