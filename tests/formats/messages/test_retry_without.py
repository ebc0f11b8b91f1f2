"""After a refusal that names a setting, the retry leaves this setting out."""

from typing import Any

import orjson
import pytest

from app.contract.records import Chain
from app.contract.remedies import apply_all
from app.contract.turn import Turn
from app.errors import ContextTooLong, UpstreamError, UpstreamFailed, UpstreamRefused
from app.formats import adapted, messages, remedies_for
from app.formats.messages import _thinking_blocks
from app.formats.messages._errors import decode_error
from tests.formats.conversations import answered, called, link, message_item, row, turn
from tests.formats.messages.conversations import encoded

CLOCK = {"type": "function", "name": "clock", "strict": True}
SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": _thinking_blocks.sealed(SIGNED, "m")}
NO_DISABLED = (
    '"thinking.type.disabled" is not supported for this model. '
    'Use "thinking.type.adaptive" and "output_config.effort" to control thinking behavior.'
)
BETWEEN = '"thinking.type.disabled" is not supported for this model. Send "thinking": {"type": "between_tools"}.'
NO_ADAPTIVE = "adaptive thinking is not supported on this model"
NO_EFFORT = "This model does not support the effort parameter."
NO_TEMPERATURE = "`temperature` is deprecated for this model."
TOO_LONG = ContextTooLong("prompt is too long")


def request_turn(**request: Any) -> Turn:
    return turn(message_item("user", "U"), **request)


def again(sentence: str, refused: Turn, **keys: Any) -> dict[str, Any]:
    """What is sent after this refusal: the turn is amended, or its channel's row."""
    channel = row(**keys)
    error = decode_error(400, {}, orjson.dumps({"error": {"type": "invalid_request_error", "message": sentence}}))
    if (better := messages.amended(refused, channel, error)) is not None:
        return encoded(better, **keys)
    body = messages.encode(refused, channel, "claude-x")
    remedies = remedies_for(error, orjson.loads(body), channel)
    assert remedies
    mended = apply_all(remedies, channel)
    sent: dict[str, Any] = orjson.loads(adapted(messages.encode(refused, mended, "claude-x"), mended)[0])
    return sent


def test_models_without_sampling_settings_get_none() -> None:
    sent = again(NO_TEMPERATURE, request_turn(temperature=0.2, top_k=5))
    assert "temperature" not in sent


@pytest.mark.parametrize("sentence", [NO_ADAPTIVE, NO_EFFORT])
def test_models_that_count_their_thinking_get_a_number_below_the_limit(sentence: str) -> None:
    effort = {"reasoning": {"effort": "high", "summary": "auto"}}
    sent = again(sentence, request_turn(max_output_tokens=4000, **effort))
    assert sent["thinking"] == {"type": "enabled", "budget_tokens": 3000}
    assert "output_config" not in sent
    assert again(sentence, request_turn(**effort), max_output_tokens=20_000)["thinking"]["budget_tokens"] == 15_000
    for refused in (
        request_turn(max_output_tokens=500, **effort),
        request_turn(tools=[CLOCK], tool_choice="required", **effort),
    ):
        assert again(sentence, refused)["thinking"] == {"type": "disabled"}


def test_models_that_cannot_stop_thinking_think_as_little_as_they_can() -> None:
    sent = again(NO_DISABLED, request_turn(reasoning={"effort": "none"}))
    assert (sent["thinking"], sent["output_config"]) == ({"type": "adaptive"}, {"effort": "low"})
    assert again(BETWEEN, request_turn(reasoning={"effort": "none"}))["thinking"] == {"type": "between_tools"}


@pytest.mark.parametrize(("effort", "better"), [("xhigh", {"effort": "high"}), ("low", None)])
def test_an_effort_that_a_model_does_not_have_is_the_next_it_has(effort: str, better: Any) -> None:
    sent = again("output_config.effort: level 'xhigh' is not supported", request_turn(reasoning={"effort": effort}))
    assert sent.get("output_config") == better


@pytest.mark.parametrize(
    "sentence",
    [
        "Thinking may not be enabled when tool_choice forces tool use.",
        "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`.",
    ],
)
def test_thinking_gives_way_to_what_excludes_it(sentence: str) -> None:
    assert again(sentence, request_turn(reasoning={"effort": "low"}))["thinking"] == {"type": "disabled"}


@pytest.mark.parametrize(
    "sentence",
    [
        "messages.1.content.0: Invalid `signature` in `thinking` block. It is bound to a different conversation.",
        "messages.3.content.8: `thinking` or `redacted_thinking` blocks in the latest message cannot be modified.",
        "messages.3.content.0.thinking.signature: Field required",
        "messages.1.content.0.type: Input tag 'thinking' found using 'type' does not match any of the expected tags",
        "invalid params, unknown content type: thinking",
        "Unexpected content block type thinking",
        "messages 参数非法: thinking",
    ],
)
def test_thinking_that_is_not_taken_back_is_forgotten(sentence: str) -> None:
    chain = Chain((link(THOUGHT, called("a"), input=(message_item("user", "U"),), opaque=True),))
    refused = turn(answered("a"), chain=chain)
    assert encoded(refused, family="other")["messages"][1]["content"][0] == SIGNED
    sent = again(sentence, refused, family="other")
    assert [block["type"] for block in sent["messages"][1]["content"]] == ["tool_use"]


@pytest.mark.parametrize(
    "sentence",
    [
        "tools.0.custom: For 'object' type, 'additionalProperties' must be explicitly set to false",
        "output_config.format.schema: For 'integer' type, property 'minimum' is not supported",
        "Schema is too complex.",
    ],
)
def test_schemas_that_cannot_be_enforced_are_only_described(sentence: str) -> None:
    form = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    crm = {"type": "namespace", "name": "crm", "tools": [CLOCK]}
    sent = again(sentence, request_turn(tools=[CLOCK, crm], text={"format": form}))
    assert "output_config" not in sent
    assert all("strict" not in tool for tool in sent["tools"])
    assert "JSON schema" in sent["system"][0]["text"]


@pytest.mark.parametrize(
    "error",
    [UpstreamRefused("No."), UpstreamRefused(NO_TEMPERATURE), UpstreamFailed(NO_TEMPERATURE), TOO_LONG],
)
def test_an_error_without_a_remedy_is_not_tried_again(error: UpstreamError) -> None:
    assert messages.amended(request_turn(), row(), error) is None


def test_a_context_that_is_too_long_is_shortened_where_the_client_allows_it() -> None:
    items = [
        message_item("user", "old " * 50),
        THOUGHT,
        message_item("assistant", "old " * 50),
        message_item("user", "new"),
    ]
    assert messages.amended(turn(*items), row(), TOO_LONG) is None
    for truncation in ("auto", {"type": "auto"}):
        shorter = messages.amended(turn(*items, truncation=truncation), row(), TOO_LONG)
        assert shorter is not None
        assert shorter.input == [message_item("user", "new")]
