"""Where the chunks of a compressed stream begin."""

from __future__ import annotations

import zlib

from buildstep.formats.codecs import Codec
from buildstep.formats.content_cut import Sizes

_SLACK = 512
"""Bytes that the padding of its last entry may add to a chunk of small entries."""


class ChunkBoundaries:
    """Decides where chunks begin: at entries chosen by a hash of their path, whatever came before.

    least: bytes that a chunk has before it may end; most: what it has at most without padding; limit: with
    padding. A larger entry gets chunks of its own. pieces: their sizes where they are cut by content.
    """

    def __init__(self, codec: Codec) -> None:
        self.least = codec.grain
        self.most = 8 * codec.grain
        self.limit = self.most + _SLACK
        least = min(4 * codec.grain, 1 << 20)
        self.pieces = Sizes(least, 2 * least, 4 * least)
        # An entry begins a chunk with a chance in proportion to its size: on average after 1.5 grains.
        self._spread = (1 << 32) / (1.5 * codec.grain)

    def before(self, path: bytes, total: int, have: int) -> bool:
        """Tell whether a chunk of `have` bytes ends before an entry of `total` bytes, header and content."""
        return have + total > self.most or (have >= self.least and zlib.crc32(path) < total * self._spread)
