"""Pictures count by their pixels: a conversation full of them is compacted when it is due, and not before."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import pytest

from tests.relay.compaction.conftest import CompactionGateway

JSON = dict[str, Any]
#: What OpenAI counts for 1024 x 1024 pixels.
TOKENS = 765


def picture(width: int = 1024, height: int = 1024) -> JSON:
    """A PNG of some 50 kB, as a screenshot has them."""
    noise = zlib.compress(struct.pack(f">{12_000}I", *range(12_000)))
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    url = "data:image/png;base64," + base64.b64encode(header + noise + bytes(40_000)).decode()
    part = {"type": "input_image", "image_url": url, "detail": "auto"}
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Look."}, part]}


def album(pictures: int) -> list[JSON]:
    answer = {"type": "message", "role": "assistant", "content": "I see."}
    return [item for _ in range(pictures) for item in (picture(), answer)] + [{"role": "user", "content": "And now?"}]


@pytest.mark.parametrize("model", ["gpt-plain", "gpt-chat"])
@pytest.mark.parametrize(("threshold", "compacted"), [(30 * TOKENS, False), (10 * TOKENS, True)])
def test_a_conversation_of_pictures_is_compacted_by_their_pixels(
    compaction_gateway: CompactionGateway, model: str, threshold: int, compacted: bool
) -> None:
    management = [{"type": "compaction", "compact_threshold": threshold}]
    response = compaction_gateway.create(model, album(20), store=False, context_management=management)
    assert ("compaction" in [item["type"] for item in response["output"]]) is compacted
