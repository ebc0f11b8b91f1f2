"""Pictures count by their pixels: a conversation full of them is compacted when it is due, and not before."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import pytest

from app.contract.token_estimate import estimate_items
from app.formats import image_rule
from tests.relay.compaction.conftest import CompactionGateway

JSON = dict[str, Any]
#: What OpenAI counts for 1024 x 1024 pixels.
TOKENS = 765
#: What Anthropic counts for them.
AREA = 1399
RULES = {"claude-9": image_rule("messages")}
SEEN = {"type": "message", "role": "assistant", "content": "I see."}


def picture(width: int = 1024, height: int = 1024) -> JSON:
    """A PNG of some 50 kB, as a screenshot has them."""
    noise = zlib.compress(struct.pack(f">{12_000}I", *range(12_000)))
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    url = "data:image/png;base64," + base64.b64encode(header + noise + bytes(40_000)).decode()
    part = {"type": "input_image", "image_url": url, "detail": "auto"}
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Look."}, part]}


@pytest.mark.parametrize("model", ["gpt-plain", "gpt-chat", "claude-9"])
def test_forty_pictures_of_two_megabytes_count_by_the_rule(compaction_gateway: CompactionGateway, model: str) -> None:
    """Headers alone, with zeros behind them; nothing of a picture is decoded."""
    shape = (1024, 1024)
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">IIBBBBB", *shape, 8, 2, 0, 0, 0)
    data = "data:image/png;base64," + base64.b64encode(header + bytes(2_000_000)).decode()
    part = {"type": "input_image", "image_url": data, "detail": "auto"}
    rule = AREA if model == "claude-9" else TOKENS
    items = [item for _ in range(40) for item in ({"role": "user", "content": [part]}, SEEN)]
    assert 0.7 * 40 * rule < estimate_items(items, RULES.get(model)) < 1.3 * 40 * rule
    # The gateway gets a tenth of them, so that the test stays fast: the body alone would have 107 MB.
    few: JSON = {"model": model, "input": [*items[:8], {"role": "user", "content": "And now?"}]}
    counted = compaction_gateway.ok("/responses/input_tokens", **few)["input_tokens"]
    assert 0.7 * 4 * rule < counted < 1.3 * 4 * rule
    management = [{"type": "compaction", "compact_threshold": int(1.3 * 4 * rule)}]
    response = compaction_gateway.create(model, few["input"], store=False, context_management=management)
    assert "compaction" not in [item["type"] for item in response["output"]]


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
