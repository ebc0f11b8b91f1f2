"""How many tokens a context takes, where no upstream has counted it: text by its words and its script, images by their
pixels, files by their pages.

The weights were fitted to the o200k vocabulary over 25 languages, program code, JSON and logs.
"""

from __future__ import annotations

import binascii
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import orjson

from app.contract.records import Chain

#: Tokens beside its content that each item takes: its role and its separators.
_PER_ITEM = 4

#: Of English text.
_CHARACTERS_PER_TOKEN = 4

#: Members that no model reads. What is sealed has no size that could be known.
_NOT_READ = frozenset(
    {"type", "id", "status", "role", "call_id", "detail", "encrypted_content", "file_id", "annotations", "logprobs"}
)


def estimate_items(items: Sequence[Any], images: ImageRule | None = None) -> int:
    """Tokens in input or output items. `images` is the rule of the upstream that will read them."""
    rule = images or TILES
    return sum(_PER_ITEM + round(sum(_tokens(item, rule))) for item in items)


def estimate_context(chain: Chain, items: Sequence[Any], settings: bytes = b"", images: ImageRule | None = None) -> int:
    """Tokens in a history, new items and the settings, which are JSON: instructions, tools. What the last upstream has
    reported counts more than an estimate, and includes the settings."""
    tip, new = chain.tip, estimate_items(items, images)
    if tip is None:
        return new + estimate_json(settings)
    # The usage of a response that begins with a compaction includes the pass over the longer history.
    if tip.input_tokens and not (chain.compacted and len(chain.links) == 1):
        return tip.input_tokens + (tip.output_tokens or 0) + new
    stored = (orjson.loads(items) for link in chain.links for items in (link.input, link.output))
    return new + estimate_json(settings) + sum(estimate_items(items, images) for items in stored)


def estimate_length(characters: int) -> int:
    """Tokens in a text of which only the length is known."""
    return characters // _CHARACTERS_PER_TOKEN


def estimate_json(body: bytes) -> int:
    """Tokens in settings, tools or other JSON that a model reads as it stands."""
    return estimate_text(body.decode(errors="replace"))


def _tokens(value: Any, images: ImageRule) -> Iterator[float]:
    """The tokens of a value's parts, at any depth that the gateway accepts."""
    if isinstance(value, str):
        yield estimate_text(value)
    elif isinstance(value, list):
        for element in value:
            yield from _tokens(element, images)
    elif isinstance(value, dict):
        kind = value.get("type")
        # The type in a schema may be a list.
        counted = _PARTS.get(kind) if isinstance(kind, str) else None
        if counted is not None:
            yield counted(value, images)
        else:
            for name, member in value.items():
                if name not in _NOT_READ:
                    yield from _tokens(member, images)
    elif value is not None:
        yield 1


# --- text -------------------------------------------------------------------------------------------------------

#: A longer text is estimated from slices of it.
_WHOLE = 16_384
_SLICES, _SLICE = 12, 1024

#: Pieces of ASCII that a tokenizer keeps apart: the humps of a name, digits by three, runs of punctuation and of
#: spaces. A word takes the space before it along; a number does not.
_MARKED = "\u00c0-\u024f\u0300-\u036f\u1e00-\u1eff"
_WORDS = re.compile(f"[A-Z]?[a-z{_MARKED}]+|[A-Z]+(?![a-z{_MARKED}])")
_DIGITS = re.compile(r"\d{1,3}")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]+")
_SPACES = re.compile(r"\n+[ \t]*|[ \t]{2,}| (?=\d)")
_OTHER_SCRIPTS = re.compile(r"[^\x00-\x7f]+")

#: Tokens of a word by its letters: common words are one token, and few long words are common.
_WORD_TOKENS = (0, 1, 0.97, 0.96, 0.98, 1, 1.12, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.7, 2.9, 3.1, 3.3, 3.5, 3.7, 3.9)
_LETTERS_PER_TOKEN = 5.5
_PER_PUNCTUATION, _PER_NEXT_PUNCTUATION = 0.8, 0.28
_PER_SPACES = 0.75

#: Tokens a character from a code point upwards, until the next row. The weights include the spaces between words.
_SCRIPTS = (
    (0x80, 0.45),  # Latin letters with marks, of Western Europe
    (0x100, 1.1),  # and of the rest of Europe
    (0x250, 1.8),
    (0x300, 1.2),  # combining marks
    (0x370, 0.39),  # Greek
    (0x400, 0.29),  # Cyrillic
    (0x450, 0.9),  # its letters outside Russian
    (0x460, 0.8),
    (0x530, 0.32),  # Armenian
    (0x590, 0.43),  # Hebrew
    (0x600, 0.36),  # Arabic
    (0x780, 1.8),
    (0x900, 0.36),  # scripts of India
    (0xE00, 0.44),  # Thai, Lao
    (0xF00, 1.8),
    (0x10A0, 0.32),  # Georgian
    (0x1100, 0.75),  # Hangul
    (0x1200, 2.1),  # Ethiopic
    (0x13A0, 1.8),
    (0x1E00, 1.2),  # Vietnamese
    (0x1F00, 0.39),  # Greek
    (0x2000, 0.7),  # punctuation and symbols
    (0x2190, 1.3),
    (0x3000, 0.7),  # punctuation of East Asia
    (0x3040, 0.8),  # Kana
    (0x3100, 0.78),  # Han
    (0xA000, 1.8),
    (0xAC00, 0.75),  # Hangul
    (0xD7B0, 1.8),
    (0xF900, 0.78),  # Han
    (0xFB00, 1.8),
    (0xFF00, 0.7),  # wide forms
    (0x10000, 1.8),  # emoji and rare scripts
)
_STARTS = [start for start, _ in _SCRIPTS]
_WEIGHTS = [weight for _, weight in _SCRIPTS]


def estimate_text(text: str) -> int:
    """Tokens in a text."""
    size = len(text)
    if size <= _WHOLE:
        return round(_count(text))
    step = (size - _SLICE) // (_SLICES - 1)
    sample = "".join(text[start : start + _SLICE] for start in range(0, step * _SLICES, step))
    return round(_count(sample) * size / len(sample))


def _count(text: str) -> float:
    count = sum(map(_word_tokens, map(len, _WORDS.findall(text))))
    count += len(_DIGITS.findall(text))
    runs = _PUNCTUATION.findall(text)
    count += _PER_PUNCTUATION * len(runs) + _PER_NEXT_PUNCTUATION * (sum(map(len, runs)) - len(runs))
    count += _PER_SPACES * len(_SPACES.findall(text))
    if not text.isascii():
        characters = Counter("".join(_OTHER_SCRIPTS.findall(text)))
        count += sum(times * _WEIGHTS[bisect_right(_STARTS, ord(char)) - 1] for char, times in characters.items())
    return count


def _word_tokens(letters: int) -> float:
    return _WORD_TOKENS[letters] if letters < len(_WORD_TOKENS) else letters / _LETTERS_PER_TOKEN


# --- images -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Size:
    """Pixels of an image."""

    width: int
    height: int

    def within(self, longest: float, shortest: float | None = None) -> Size:
        """Scaled down until its longer side, and then its shorter one, is no longer than that."""
        factor = min(1.0, longest / max(self.width, self.height, 1))
        if shortest is not None:
            factor = min(factor, shortest / max(1, min(self.width, self.height)))
        return Size(max(1, round(self.width * factor)), max(1, round(self.height * factor)))

    def tiles(self, side: int) -> int:
        return ceil(self.width / side) * ceil(self.height / side)


class ImageRule(ABC):
    """How a family of models counts an image."""

    @abstractmethod
    def count(self, size: Size, detail: str) -> int:
        """Tokens of an image of this size. `detail`: `low`, `high` or `auto`."""


class _Tiles(ImageRule):
    """OpenAI's rule: tiles of 512 pixels after scaling."""

    def count(self, size: Size, detail: str) -> int:
        if detail == "low":
            return 85
        return 85 + 170 * size.within(2048, 768).tiles(512)


class _Area(ImageRule):
    """Anthropic's rule: the pixels after scaling, 750 a token."""

    def count(self, size: Size, detail: str) -> int:
        scaled = size.within(1568)
        return ceil(min(scaled.width * scaled.height, 1_200_000) / 750)


TILES: ImageRule = _Tiles()
AREA: ImageRule = _Area()

#: The size of an image that lies elsewhere, or whose header cannot be read.
_UNKNOWN_SIZE = Size(1024, 1024)
#: Characters of base64 that are read for the header. A JPEG may begin with a preview and a colour profile.
_HEADER = 4 * 65_536
_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^,]*)?;base64,")


def image_size(url: str) -> Size | None:
    """The pixels of an image in a data URL, from its header: PNG, JPEG, GIF or WebP. None for other URLs."""
    found = _DATA_URL.match(url)
    if not found:
        return None
    for characters in (64, _HEADER):
        size = _size(_decoded(url[found.end() : found.end() + characters]))
        if size is not None:
            return size
    return None


def _decoded(base64: str) -> bytes:
    """The bytes of the beginning of a base64 text; none when it is not base64."""
    try:
        return binascii.a2b_base64(base64[: len(base64) // 4 * 4].encode(errors="replace"))
    except binascii.Error:
        return b""


def _size(header: bytes) -> Size | None:
    if header[:8] == b"\x89PNG\r\n\x1a\n" and len(header) >= 24:
        return Size(int.from_bytes(header[16:20]), int.from_bytes(header[20:24]))
    if header[:6] in (b"GIF87a", b"GIF89a") and len(header) >= 10:
        return Size(int.from_bytes(header[6:8], "little"), int.from_bytes(header[8:10], "little"))
    if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
        return _webp_size(header)
    if header[:2] == b"\xff\xd8":
        return _jpeg_size(header)
    return None


def _webp_size(header: bytes) -> Size | None:
    kind = header[12:16]
    if kind == b"VP8X" and len(header) >= 30:
        return Size(1 + int.from_bytes(header[24:27], "little"), 1 + int.from_bytes(header[27:30], "little"))
    if kind == b"VP8 " and len(header) >= 30:
        return Size(int.from_bytes(header[26:28], "little") & 0x3FFF, int.from_bytes(header[28:30], "little") & 0x3FFF)
    if kind == b"VP8L" and len(header) >= 25:
        bits = int.from_bytes(header[21:25], "little")
        return Size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    return None


def _jpeg_size(header: bytes) -> Size | None:
    """Reads the segments up to the frame header, which has the size."""
    position = 2
    while position + 9 <= len(header):
        if header[position] != 0xFF:
            return None
        marker = header[position + 1]
        if marker == 0xFF:
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return Size(
                int.from_bytes(header[position + 7 : position + 9]), int.from_bytes(header[position + 5 : position + 7])
            )
        else:
            position += 2 + int.from_bytes(header[position + 2 : position + 4])
    return None


def _image(part: Mapping[str, Any], images: ImageRule) -> int:
    nested = part.get("image_url")
    # Chat completions nest the two members.
    holder = nested if isinstance(nested, dict) else {"url": nested, "detail": part.get("detail")}
    url, detail = holder.get("url"), holder.get("detail")
    size = image_size(url) if isinstance(url, str) else None
    return images.count(size or _UNKNOWN_SIZE, str(detail or "auto"))


def _generated(part: Mapping[str, Any], images: ImageRule) -> int:
    """An image that a model has made: its bytes stand without an address."""
    data = part.get("result")
    if not isinstance(data, str) or not data:
        return 0
    header = data[: 2 * _HEADER]
    return _image({"image_url": header if header.startswith("data:") else f"data:;base64,{header}"}, images)


# --- files ------------------------------------------------------------------------------------------------------

_PER_PAGE = 1500
_PAGE = re.compile(rb"/Type\s*/Page(?![a-zA-Z])")
_PAGE_COUNT = re.compile(rb"/Count\s+(\d+)")
#: A file that lies elsewhere.
_UNKNOWN_FILE = 2 * _PER_PAGE
#: Bytes of a file that is neither text nor PDF, for each token of the text in it.
_BYTES_PER_TOKEN = 24


def _file(part: Mapping[str, Any], images: ImageRule) -> int:
    data = part.get("file_data")
    if not isinstance(data, str):
        return _UNKNOWN_FILE
    content = _decoded(data.rpartition(",")[2])
    if not content:
        return estimate_text(data)
    if content[:5] == b"%PDF-":
        return _PER_PAGE * _pages(content)
    try:
        return estimate_text(content.decode())
    except UnicodeDecodeError:
        return len(content) // _BYTES_PER_TOKEN


def _pages(pdf: bytes) -> int:
    """The pages of a PDF. Compressed ones hide their pages: then 50 kB are one."""
    counted = max((int(count) for count in _PAGE_COUNT.findall(pdf)), default=0)
    return max(len(_PAGE.findall(pdf)), min(counted, 10_000)) or ceil(len(pdf) / 50_000)


def _audio(part: Mapping[str, Any], images: ImageRule) -> int:
    """Ten tokens a second, at 16 kB a second."""
    audio = part.get("input_audio")
    data = audio.get("data") if isinstance(audio, dict) else None
    return len(data) * 3 // 4 // 1600 if isinstance(data, str) else 0


_PARTS = {
    "input_image": _image,
    "image_url": _image,
    "computer_screenshot": _image,
    "image_generation_call": _generated,
    "input_file": _file,
    "input_audio": _audio,
}
