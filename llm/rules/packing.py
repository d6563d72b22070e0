"""Bodies that come packed although nobody asked for it, and whose heads do not say so, or not in usual words. Pure."""

from __future__ import annotations

import zlib

# No text begins so.
_GZIP = b"\x1f\x8b"
# What has been packed more often is no answer of anybody's.
_MOST_LAYERS = 4


class Packing:
    """Undoes gzip, however often it was done, of a body that comes in pieces; what is not packed stays as it is."""

    def __init__(self, layers: int = _MOST_LAYERS) -> None:
        self._layers = layers
        self._begun = b""
        # None: its first two bytes have not come; False: it is not packed.
        self._unpacks: bool | None = None
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._inner: Packing | None = None

    def undo(self, piece: bytes, *, most_bytes: int) -> bytes:
        """What a piece holds, of which no more than `most_bytes` are looked at. Raises zlib.error for a broken one."""
        if self._unpacks is None:
            piece = self._begun + piece
            if len(piece) < len(_GZIP) and _GZIP.startswith(piece):
                self._begun = piece
                return b""
            self._unpacks = self._layers > 0 and piece.startswith(_GZIP)
            self._inner = Packing(self._layers - 1) if self._unpacks else None
        if self._inner is None:
            return piece
        return self._inner.undo(self._unpacked(piece, most_bytes), most_bytes=most_bytes)

    @property
    def is_cut(self) -> bool:
        """Whether what has come of a packed body is not all of it."""
        if self._inner is None:
            return bool(self._begun) and self._unpacks is None
        return not self._unpacker.eof or self._inner.is_cut

    def _unpacked(self, piece: bytes, most_bytes: int) -> bytes:
        """A body may be several packed ones, one behind the other."""
        found = self._unpacker.decompress(piece, most_bytes)
        while self._unpacker.eof and (rest := self._unpacker.unused_data) and len(found) < most_bytes:
            self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
            found += self._unpacker.decompress(rest, most_bytes - len(found))
        return found
