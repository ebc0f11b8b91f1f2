"""The README's two pictures of the console, from those that the tests take, made smaller. `make screenshots` does both,
with `python -m tests.console.screenshots FROM TO`."""

from __future__ import annotations

import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

#: The pictures of the tests, and what they are called in the README.
PICTURES = {"overview-1440-light.png": "overview.png", "tree-selected-1440-light.png": "tree.png"}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS, _FREQUENT = 256, 200


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    target.mkdir(parents=True, exist_ok=True)
    for picture, name in PICTURES.items():
        (target / name).write_bytes(smaller((source / picture).read_bytes()))
        print(f"{target / name}: {(target / name).stat().st_size / 1024:.0f} KB")


def smaller(png: bytes) -> bytes:
    """The same picture with at most 256 colours; each other one becomes the nearest of them."""
    width, height, depth, lines = _decoded(png)
    colours = [line[place : place + 3] for line in lines for place in range(0, len(line), depth)]
    counts = Counter(colours)
    palette = _palette(counts)
    places = {colour: _nearest(colour, palette) for colour in counts}
    pixels = bytes(map(places.__getitem__, colours))
    body = b"".join(b"\0" + pixels[start : start + width] for start in range(0, width * height, width))
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", b"".join(palette)),
        (b"IDAT", zlib.compress(body, 9)),
        (b"IEND", b""),
    )
    return _SIGNATURE + b"".join(_part(name, content) for name, content in parts)


def _palette(counts: Counter[bytes]) -> list[bytes]:
    """The most frequent colours, and of the others those that are least like any of these: a small sign in amber."""
    palette = [colour for colour, _ in counts.most_common(_FREQUENT)]
    others = {colour: min(_distance(colour, one) for one in palette) for colour in counts.keys() - {*palette}}
    while others and len(palette) < _COLOURS:
        palette.append(max(sorted(others), key=others.__getitem__))
        del others[palette[-1]]
        others = {colour: min(distance, _distance(colour, palette[-1])) for colour, distance in others.items()}
    return palette


def _distance(one: bytes, other: bytes) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _nearest(colour: bytes, palette: list[bytes]) -> int:
    return min(range(len(palette)), key=lambda place: _distance(colour, palette[place]))


def _decoded(png: bytes) -> tuple[int, int, int, list[bytes]]:
    """Width, height, bytes a pixel, and the lines of a picture with 8 bits a channel, as Chromium writes it."""
    assert png.startswith(_SIGNATURE)
    parts = list(_parts(png))
    width, height, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", parts[0][1])
    assert (bits, interlaced) == (8, 0)
    depth = {2: 3, 6: 4}[kind]
    raw = zlib.decompress(b"".join(content for name, content in parts if name == b"IDAT"))
    size = width * depth
    lines: list[bytes] = []
    above = bytearray(size)
    for start in range(0, len(raw), size + 1):
        above = _unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + size]), above, depth)
        lines.append(bytes(above))
    return width, height, depth, lines


def _unfiltered(filter: int, line: bytearray, above: bytearray, depth: int) -> bytearray:
    if filter == 2:
        return bytearray((value + up) & 255 for value, up in zip(line, above, strict=True))
    for place in range(len(line) if filter else 0):
        left = line[place - depth] if place >= depth else 0
        corner = above[place - depth] if place >= depth else 0
        line[place] = (line[place] + _predicted(filter, left, above[place], corner)) & 255
    return line


def _predicted(filter: int, left: int, up: int, corner: int) -> int:
    if filter == 1:
        return left
    if filter == 3:
        return (left + up) // 2
    distances = ((abs(up - corner), left), (abs(left - corner), up), (abs(left + up - 2 * corner), corner))
    return min(distances, key=lambda distance: distance[0])[1]


def _parts(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(_SIGNATURE)
    while place < len(png):
        length, name = struct.unpack(">I4s", png[place : place + 8])
        yield name, png[place + 8 : place + 8 + length]
        place += length + 12


def _part(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


if __name__ == "__main__":
    main()
