"""Lists the device code inside a CUDA library, without the CUDA toolkit.

nvcc stores code as a "fat binary": a header (magic number, version, header size, size of all) and
then one entry per image, whose header holds its kind (PTX or machine code), the sizes of header
and payload, and the architecture as two decimal digits or more.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_MAGIC = struct.pack("<I", 0xBA55ED50)
_HEADER = struct.Struct("<IHHQ")  # magic, version, header bytes, bytes of all entries
_ENTRY = struct.Struct("<HHIQ")  # kind, flags, header bytes, payload bytes
_ARCHITECTURE_AT = 28  # offset of the architecture in an entry's header
_PTX, _MACHINE_CODE = 1, 2


@dataclass(frozen=True)
class Image:
    """Code for one architecture: machine code, or PTX that a driver compiles."""

    architecture: int
    is_ptx: bool

    def __str__(self) -> str:
        return f"{'compute' if self.is_ptx else 'sm'}_{self.architecture}"

    def runs_on(self, major: int, minor: int) -> bool:
        """Whether a device of this compute capability can run the code."""
        own_major, own_minor = divmod(self.architecture, 10)
        if self.is_ptx:
            return (major, minor) >= (own_major, own_minor)
        return major == own_major and minor >= own_minor


def list_images(path: Path) -> list[Image]:
    """Return every image in a library, in order."""
    data = path.read_bytes()
    images: list[Image] = []
    at = data.find(_MAGIC)
    while at >= 0:
        images.extend(_entries(data, at))
        at = data.find(_MAGIC, at + len(_MAGIC))
    return images


def _entries(data: bytes, start: int) -> list[Image]:
    if start + _HEADER.size > len(data):
        return []
    _, _, header_bytes, body_bytes = _HEADER.unpack_from(data, start)
    at, end = start + header_bytes, start + header_bytes + body_bytes
    images = []
    while at + _ARCHITECTURE_AT + 4 <= min(end, len(data)):
        kind, _, entry_bytes, payload_bytes = _ENTRY.unpack_from(data, at)
        if kind not in (_PTX, _MACHINE_CODE) or entry_bytes == 0:
            break
        (architecture,) = struct.unpack_from("<I", data, at + _ARCHITECTURE_AT)
        images.append(Image(architecture, is_ptx=kind == _PTX))
        at += entry_bytes + payload_bytes
    return images
