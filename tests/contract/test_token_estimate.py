"""Estimates of tokens beside the counts of a real tokenizer: `token_counts.json` has those of `o200k_base`, as npm's
gpt-tokenizer gives them.
"""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.token_estimate import AREA, TILES, Size, estimate_items, estimate_text, image_size

COUNTS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent.parent / "data" / "token_counts.json").read_text()
)


def is_near(estimate: int, count: int) -> bool:
    return 0.7 * count <= estimate <= 1.3 * count


@pytest.mark.parametrize("kind", COUNTS)
def test_each_script_and_each_kind_of_code_is_estimated_within_30_percent(kind: str) -> None:
    for sample in COUNTS[kind]:
        assert is_near(estimate_text(sample["text"]), sample["tokens"]), (sample, estimate_text(sample["text"]))


@given(st.lists(st.sampled_from([sample for samples in COUNTS.values() for sample in samples]), min_size=1))
def test_a_mixture_of_scripts_and_code_is_estimated_within_30_percent(samples: list[dict[str, Any]]) -> None:
    text = "\n".join(sample["text"] for sample in samples)
    assert is_near(estimate_text(text), sum(sample["tokens"] + 1 for sample in samples))


@pytest.mark.parametrize("kind", COUNTS)
def test_a_long_text_is_estimated_from_slices_of_it(kind: str) -> None:
    unit = "\n".join(sample["text"] for sample in COUNTS[kind])
    tokens = sum(sample["tokens"] for sample in COUNTS[kind])
    times = 1 + 200_000 // len(unit)
    assert is_near(estimate_text(unit * times), tokens * times)


@given(st.text())
def test_every_text_has_an_estimate(text: str) -> None:
    assert 0 <= estimate_text(text) <= 3 * len(text.encode(errors="surrogatepass")) + 1


def data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0) + bytes(2000)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(500)


def jpeg(width: int, height: int, marker: int = 0xC0) -> bytes:
    """With a preview of 60 kB before the frame header, and padding before a marker."""
    preview = b"\xff\xe1" + struct.pack(">H", 60_000) + bytes(59_998)
    frame = b"\xff\xff" + bytes([marker]) + struct.pack(">HBHH", 17, 8, height, width) + bytes(10)
    return b"\xff\xd8" + preview + frame + bytes(1000)


def webp(width: int, height: int) -> bytes:
    return b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(500)


def webp_lossless(width: int, height: int) -> bytes:
    return b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(500)


def webp_extended(width: int, height: int) -> bytes:
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0" + size + bytes(500)


@pytest.mark.parametrize("build", [png, gif, jpeg, webp, webp_lossless, webp_extended])
@given(width=st.integers(1, 16_383), height=st.integers(1, 16_383))
def test_the_pixels_of_an_image_are_read_from_its_header(build: Any, width: int, height: int) -> None:
    url = data_url(build.__name__.partition("_")[0], build(width, height))
    assert image_size(url) == Size(width, height)


@pytest.mark.parametrize("marker", [0xC1, 0xC2, 0xCF])
def test_progressive_and_other_frames_of_a_jpeg_are_read(marker: int) -> None:
    assert image_size(data_url("jpeg", jpeg(640, 480, marker))) == Size(640, 480)


@given(st.binary(max_size=64))
def test_no_header_is_an_error(content: bytes) -> None:
    for start in (b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8", b"RIFF\0\0\0\0WEBPVP8 ", b"RIFF\0\0\0\0WEBPVP8L"):
        image_size(data_url("png", start + content))


@pytest.mark.parametrize(
    "url", ["https://example.org/a.png", "data:image/png;base64,", "data:image/png;base64,!!!", ""]
)
def test_an_image_that_cannot_be_read_has_no_size(url: str) -> None:
    assert image_size(url) is None


@pytest.mark.parametrize(
    ("width", "height", "tiles", "area"),
    [(1024, 1024, 765, 1399), (512, 512, 255, 350), (4096, 8192, 1105, 1600), (300, 200, 255, 80)],
)
def test_images_cost_what_their_upstreams_family_counts(width: int, height: int, tiles: int, area: int) -> None:
    assert TILES.count(Size(width, height), "auto") == tiles
    assert AREA.count(Size(width, height), "auto") == pytest.approx(area, rel=0.05)
    assert TILES.count(Size(width, height), "low") == 85


def part(**members: Any) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [members]}


def test_an_image_costs_its_pixels_and_not_its_bytes() -> None:
    large = part(type="input_image", image_url=data_url("png", png(1024, 1024) + bytes(2_000_000)))
    assert estimate_items([large]) == pytest.approx(765, abs=10)
    assert estimate_items([large], AREA) == pytest.approx(1399, abs=10)
    elsewhere = part(type="input_image", image_url="https://example.org/a.png")
    assert estimate_items([elsewhere]) == pytest.approx(765, abs=10)


def test_the_screenshot_of_a_computer_call_is_an_image() -> None:
    screenshot = {"type": "computer_screenshot", "image_url": data_url("png", png(1280, 800) + bytes(500_000))}
    assert estimate_items([{"type": "computer_call_output", "call_id": "c", "output": screenshot}]) < 1500


@pytest.mark.parametrize("kind", [["string", "null"], {"enum": ["a"]}, None, 1])
def test_a_schema_whose_type_is_no_word_is_read_as_it_stands(kind: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": kind, "description": "word " * 50}}}
    tools = [{"type": "function", "name": "f", "parameters": schema}]
    brought = {"type": "additional_tools", "role": "developer", "tools": tools}
    assert 50 < estimate_items([brought]) < 90


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_a_generated_image_costs_its_pixels(prefix: str) -> None:
    result = prefix + base64.b64encode(png(1024, 1024) + bytes(2_000_000)).decode()
    item = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": result}
    assert estimate_items([item]) == pytest.approx(765, abs=10)
    assert estimate_items([{**item, "result": None}]) < 10


def test_a_file_costs_its_pages_or_its_text() -> None:
    pdf = b"%PDF-1.7\n" + b"<< /Type /Pages /Kids [] >>\n" + b"<< /Type /Page >>\n" * 3 + bytes(900_000)
    assert estimate_items([part(type="input_file", file_data=data_url("pdf", pdf))]) == pytest.approx(4500, abs=10)
    text = COUNTS["Latin (English)"][0]
    plain = f"data:text/plain;base64,{base64.b64encode(text['text'].encode()).decode()}"
    assert is_near(estimate_items([part(type="input_file", file_data=plain)]) - 4, text["tokens"])


def test_sealed_members_and_ids_cost_nothing() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x" * 100_000}
    assert estimate_items([reasoning]) < 10


def test_arguments_and_outputs_of_calls_are_read_as_text() -> None:
    sample = COUNTS["JSON"][0]
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "add", "arguments": sample["text"]}
    output = {"type": "function_call_output", "call_id": "call_1", "output": sample["text"]}
    assert is_near(estimate_items([call, output]) - 9, 2 * sample["tokens"])
