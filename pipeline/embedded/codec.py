"""Content encodings of HTTP bodies, piece by piece in bounded memory. Knows nothing of what the bytes mean."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

PIECE_BYTES_MAX = 4 * 1024 * 1024
"""No decoded piece is larger, whatever the ratio of the compression."""

_GZIP_OR_ZLIB = 47
_GZIP = 31
_PREFERENCE = ("zstd", "lz4", "gzip", "deflate", "br")


class EncodingError(Exception):
    """A body is not what its Content-Encoding says, or the encoding is not known here."""


def decoded(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """The pieces without their encoding. Raises EncodingError, also when the last frame is cut off."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        yield from pieces
        return
    if encoding == "br":
        yield from _decoded_brotli(pieces)
        return
    decoder = _new_decoder(encoding)
    fresh = True
    for piece in pieces:
        data = piece
        while data or not decoder.needs_input:
            try:
                if decoder.eof:
                    decoder = _new_decoder(encoding)
                fresh = False
                out = decoder.decompress(data, PIECE_BYTES_MAX)
            except Exception as error:
                raise EncodingError(f"Cannot decompress the body: it is not valid {encoding}") from error
            data = decoder.unused_data if decoder.eof else b""
            if out:
                yield out
            if decoder.eof and not data:
                break
    if not fresh and not decoder.eof:
        raise EncodingError(f"Cannot decompress the body: the {encoding} data are cut off")


def negotiate(accepted: str) -> str:
    """The encoding to answer with for an Accept-Encoding header; empty for none."""
    names = {
        item.partition(";")[0].strip().lower()
        for item in accepted.split(",")
        if "q=0" not in item.replace(" ", "")[-4:]
    }
    for encoding in _PREFERENCE:
        if encoding in names and (encoding != "br" or _brotli() is not None):
            return encoding
    return ""


def encoded(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """The pieces in the encoding, each flushed only when the encoder wants to."""
    if encoding == "":
        yield from pieces
        return
    encoder = _Encoder(encoding)
    head = encoder.begin()
    if head:
        yield head
    for piece in pieces:
        out = encoder.add(piece)
        if out:
            yield out
    yield encoder.end()


class _Encoder:
    """One interface over the encoders of the libraries."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        if encoding == "lz4":
            self._inner: Any = importlib.import_module("lz4.frame").LZ4FrameCompressor()
        elif encoding == "zstd":
            self._inner = _zstd().ZstdCompressor(level=1)
        elif encoding == "br":
            self._inner = _brotli().Compressor(quality=1)
        else:
            self._inner = zlib.compressobj(1, zlib.DEFLATED, _GZIP if encoding == "gzip" else zlib.MAX_WBITS)

    def begin(self) -> bytes:
        return bytes(self._inner.begin()) if self._encoding == "lz4" else b""

    def add(self, piece: bytes) -> bytes:
        return bytes(self._inner.process(piece) if self._encoding == "br" else self._inner.compress(piece))

    def end(self) -> bytes:
        return bytes(self._inner.finish() if self._encoding == "br" else self._inner.flush())


class _ZlibDecoder:
    """gzip and zlib with the interface that the decoders of lz4 and zstd share."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(_GZIP_OR_ZLIB)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


def _new_decoder(encoding: str) -> Any:
    if encoding == "lz4":
        return importlib.import_module("lz4.frame").LZ4FrameDecompressor()
    if encoding == "zstd":
        return _zstd().ZstdDecompressor()
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _ZlibDecoder()
    raise EncodingError(f"Unknown compression method: {encoding}")


def _decoded_brotli(pieces: Iterable[bytes]) -> Iterator[bytes]:
    library = _brotli()
    if library is None:
        raise EncodingError("Unknown compression method: br (the brotli package is not installed)")
    decoder = library.Decompressor()
    for piece in pieces:
        try:
            yield decoder.process(piece)
        except library.error as error:
            raise EncodingError("Cannot decompress the body: it is not valid br") from error
    if not decoder.is_finished():
        raise EncodingError("Cannot decompress the body: the br data are cut off")


def _zstd() -> Any:
    """Python 3.14 has it; before, the backport that clickhouse-connect brings along."""
    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        return importlib.import_module("backports.zstd")


def _brotli() -> Any:
    try:
        return importlib.import_module("brotli")
    except ImportError:
        return None
