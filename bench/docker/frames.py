"""Takes apart the stream of an attached container: messages, and the last words on its errors."""

from __future__ import annotations

import struct
from collections import deque

from bench.docker.wire import Message, decode

_HEADER = struct.Struct(">BxxxL")  # which stream, bytes that follow
_STDOUT = 1
_TAIL = 8  # lines of standard error to remember


class Frames:
    """Joins what arrives in pieces to whole frames and lines."""

    def __init__(self) -> None:
        self._raw = b""
        self._line = b""
        self._errors: deque[bytes] = deque(maxlen=_TAIL)

    def feed(self, data: bytes) -> list[Message]:
        """Take in bytes as they came; returns the messages that are complete now."""
        self._raw += data
        messages = []
        while len(self._raw) >= _HEADER.size:
            stream, length = _HEADER.unpack_from(self._raw)
            end = _HEADER.size + length
            if len(self._raw) < end:
                break
            content, self._raw = self._raw[_HEADER.size : end], self._raw[end:]
            if stream == _STDOUT:
                messages += self._take(content)
            else:
                self._errors.extend(line for line in content.splitlines() if line.strip())
        return messages

    def _take(self, content: bytes) -> list[Message]:
        *lines, self._line = (self._line + content).split(b"\n")
        return [message for line in lines if (message := decode(line)) is not None]

    @property
    def last_words(self) -> str:
        """The last line of standard error, or nothing."""
        return self._errors[-1].decode(errors="replace").strip() if self._errors else ""
