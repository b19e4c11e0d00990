"""permessage-deflate (RFC 7692) as a WebSocket connection of ours uses it: short texts go as they are (WS-03)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame, Opcode
from websockets.typing import ExtensionParameter

COMPRESS_FROM_BYTES = 512
"""WS-03: shorter texts go uncompressed, as the extension allows: they gain little, and a compressor costs more time
than the rest of the way."""

WINDOW_BITS: Final = 11
"""A window of 2 KiB, for what both sides send. A larger one gains little, and costs memory or time."""

LEVEL: Final = 3
MEMORY_LEVEL: Final = 5
"""Of zlib: as measured, the quickest for messages of 1 to 20 KiB."""

MAX_FINAL_BLOCKS: Final = 64
"""Final blocks of one frame, as RFC 7692 (section 7.2.3.4) allows them; each costs a decompressor of its own."""

_SYNC: Final = b"\x00\x00\xff\xff"
"""End of what a sender flushes, which does not travel."""


class Deflate(Extension):
    """Extension as negotiated by the library, with a compressor for each long text and one decompressor."""

    name = PerMessageDeflate.name

    def __init__(self, agreed: PerMessageDeflate) -> None:
        self._their_bits = agreed.remote_max_window_bits
        self._their_context = not agreed.remote_no_context_takeover
        self._our_bits = min(agreed.local_max_window_bits, WINDOW_BITS)
        self._inflater: Any = None
        self._inflating = False  # the fragmented message that comes is compressed

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """Inflate a frame, to at most ``max_size`` bytes. Raises PayloadTooBig, ProtocolError."""
        if frame.opcode is Opcode.CONT:
            if not self._inflating or frame.rsv1:
                return frame  # which the library refuses if the bit is set
            self._inflating = not frame.fin
        elif not frame.rsv1 or frame.opcode not in (Opcode.TEXT, Opcode.BINARY):
            return frame
        else:
            self._inflating = not frame.fin
            if self._inflater is None or not self._their_context:
                self._inflater = zlib.decompressobj(-self._their_bits)
        try:
            data = self._inflated(bytes(frame.data) + _SYNC if frame.fin else bytes(frame.data), max_size)
        except zlib.error as error:
            raise ProtocolError("decompression failed") from error
        return Frame(frame.opcode, data, frame.fin, False, frame.rsv2, frame.rsv3)

    def _inflated(self, data: bytes, max_size: int | None) -> bytes:
        whole: bytes = b""
        for _ in range(MAX_FINAL_BLOCKS):
            whole += self._inflater.decompress(data, 0 if max_size is None else max_size + 1 - len(whole))
            if max_size is not None and len(whole) > max_size:
                raise PayloadTooBig(None, max_size)
            if not self._inflater.eof:
                return whole
            data = self._inflater.unused_data
            self._inflater = zlib.decompressobj(-self._their_bits)  # its sender has begun anew, too
            if data in (b"", _SYNC):
                return whole
        raise ProtocolError("too many final blocks in one frame")

    def encode(self, frame: Frame) -> Frame:
        """Deflate a text that is worth it. It does not refer to earlier ones, which every receiver understands."""
        if frame.opcode is not Opcode.TEXT or len(frame.data) < COMPRESS_FROM_BYTES:
            return frame
        deflater = zlib.compressobj(LEVEL, zlib.DEFLATED, -self._our_bits, MEMORY_LEVEL)
        data = deflater.compress(frame.data) + deflater.flush(zlib.Z_SYNC_FLUSH)
        return Frame(frame.opcode, data[: -len(_SYNC)], frame.fin, True, frame.rsv2, frame.rsv3)


class ServerDeflate(ServerPerMessageDeflateFactory):
    """Factory of a server, for a client's offer. A client that can is asked for a small window."""

    def __init__(self) -> None:
        super().__init__(client_max_window_bits=WINDOW_BITS)

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], Any]:
        answer, agreed = super().process_request_params(params, accepted_extensions)
        return answer, Deflate(agreed)


class ClientDeflate(ClientPerMessageDeflateFactory):
    """Factory of a client: the offer to a server, with a small window on both sides."""

    def __init__(self) -> None:
        super().__init__(server_max_window_bits=WINDOW_BITS, client_max_window_bits=WINDOW_BITS)

    def process_response_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> Any:
        return Deflate(super().process_response_params(params, accepted_extensions))
