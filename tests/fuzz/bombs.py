"""Small files that say they are large: pictures and archives, made by hand."""

from __future__ import annotations

import functools
import random
import struct
import zlib

SIZES = ((1, 60_000), (60_000, 1), (1, 10_000_000), (9_000, 9_000), (16_000, 16_000), (2**31 - 1, 1), (1, 1), (0, 5))
_CHUNK = 16 * 2**20


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@functools.cache
def png(width: int, height: int, depth: int = 1, colour: int = 0) -> bytes:
    """A black PNG; beyond 100 million pixels it has no more than its head."""
    rows = b""
    if width * height <= 10**8:
        rows = zlib.compress(bytes((width * depth + 7) // 8 + 1) * height, 9)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _png_chunk(kind, part) for kind, part in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    )


def a_picture(rng: random.Random) -> bytes:
    """A picture whose size or content nobody expects."""
    return rng.choice(
        (
            png(*rng.choice(SIZES)),
            png(*rng.choice(SIZES), 16),
            b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b";",
            b"P6\n100000 100000\n255\n",
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 10**6, 10**6, 1, 24, 0, 0, 0, 0, 0, 0),
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9999 9999\n%%EndComments\n(reached) run\n",
            b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        )
    )


def with_other_header(content: bytes, rng: random.Random) -> bytes:
    """A PNG with one chunk changed, and its checksum right again."""
    chunks, place = [], 8
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return content[:-1]
    index = rng.randrange(len(chunks))
    kind, inside = chunks[index]
    if kind == b"IHDR" and len(inside) == 13:
        way = rng.randrange(3)
        if way == 0:
            inside = struct.pack(">II", *rng.choice(SIZES)) + inside[8:]
        elif way == 1:
            inside = (
                inside[:8]
                + bytes([rng.choice((0, 1, 2, 3, 4, 8, 16, 255)), rng.choice((0, 2, 3, 4, 6, 9))])
                + inside[10:]
            )
        else:
            inside = inside[:12] + b"\1"
    elif rng.random() < 0.3:
        chunks.insert(index, rng.choice(chunks))
    elif rng.random() < 0.3:
        text = rng.choice((b"\0" * 9, b"Comment\0" + b"a" * 70_000, b"x\0\0" + zlib.compress(bytes(2 * 10**7))))
        chunks.insert(1, (rng.choice((b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"tRNS", b"gAMA", b"acTL", b"fcTL")), text))
    else:
        data = bytearray(inside)
        for _ in range(3):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        inside = bytes(data)
    chunks[index] = (kind, inside) if rng.random() < 0.95 else (b"xxxx", inside)
    return content[:8] + b"".join(_png_chunk(*chunk) for chunk in chunks)


def zip_bomb(member: str, size: int) -> bytes:
    """An archive with one member of zeros, deflated; its checksum is wrong, as nobody should read so far."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(_CHUNK)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = block * (size // _CHUNK) + packer.flush()
    name = member.encode()
    about = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, 0, len(data), size // _CHUNK * _CHUNK, len(name), 0)
    local = b"PK\3\4" + about + name + data
    central = b"PK\1\2" + struct.pack("<H", 20) + about + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    return local + central + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
