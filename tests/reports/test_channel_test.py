"""The steps of a channel's test against scripted upstreams: what worked, what had to be mended, and what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.contract.channel import Channel
from app.reports.channel_test import ChannelTestResult, try_channels
from app.settings import load_settings
from tests.gateway import Gateway
from tests.upstream import Answer, Exchange, Script, ScriptedUpstream, refusal, retold

NAMES = ("text", "tool call", "second turn", "image")


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


Try = Callable[..., ChannelTestResult]


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upstream: ScriptedUpstream) -> Try:
    """Tests the upstream as a channel of a format."""
    Gateway(tmp_path, [{"name": "demo", "format": "demo", "models": ["demo"]}])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTIPHON_SECRET_KEY", "k" * 48)

    def run(format_: str) -> ChannelTestResult:
        url = None if format_ == "demo" else upstream.base_url
        row = Channel(name="c", format=format_, base_url=url, api_key="a-key", models={"m": "m"})
        (result,) = try_channels(load_settings(), [row], None, 20)
        return result

    return run


def refusing(breaks: Callable[[Any], bool], message: str, status: int = 400) -> Script:
    """An upstream that refuses every request that breaks its rule."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        return refusal(status, message)(exchange, answer) if breaks(exchange.request.body) else answer

    return script


def holds(body: Any, word: str) -> bool:
    return word in orjson.dumps(body).decode()


def context(body: Any) -> list[Any]:
    return list(body.get("input") or body.get("messages"))


WORDS = {"index": 0, "message": {"role": "assistant", "content": "I would rather talk."}, "finish_reason": "stop"}
#: What the upstream does, the step that shows it, its result, and words of what is shown.
STEPS: dict[str, tuple[Script, str, str, str]] = {
    "a parameter": (
        refusing(
            lambda body: "max_tokens" in body,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
        ),
        "text",
        "mended",
        "rename max_tokens max_completion_tokens",
    ),
    "a parameter of tools": (
        refusing(lambda body: holds(body, '"strict"'), "Unknown parameter: 'tools[0].function.strict'."),
        "tool call",
        "mended",
        "strict",
    ),
    "no tools": (
        refusing(lambda body: "tools" in body, "This model does not take them."),
        "tool call",
        "failed",
        "does not take",
    ),
    "no call": (retold(lambda body: {**body, "choices": [WORDS]}), "tool call", "failed", "without the call"),
    "a tool's output": (
        refusing(lambda body: holds(body, '"tool_call_id"'), "Boom.", 500),
        "tool call",
        "failed",
        "Boom.",
    ),
    "history": (
        refusing(lambda body: "tools" not in body and len(context(body)) > 1, "One message is enough."),
        "second turn",
        "failed",
        "One message is enough.",
    ),
    "no images": (
        refusing(lambda body: holds(body, "image_url"), "Text only, please."),
        "image",
        "not taken",
        "Text only",
    ),
    "a crash over images": (refusing(lambda body: holds(body, "image_url"), "Boom.", 500), "image", "failed", "Boom."),
}


@pytest.mark.parametrize("format_", ["responses", "chat_completions", "messages", "demo"])
def test_every_format_is_tested_in_the_same_steps(tried: Try, upstream: ScriptedUpstream, format_: str) -> None:
    result = tried(format_)
    assert [(step.step, step.label) for step in result.steps] == [(name, "ok") for name in NAMES]
    assert (result.label, result.cause, result.fix) == ("ok", "", "")


@pytest.mark.parametrize("case", STEPS)
def test_each_step_shows_what_worked_and_what_did_not(tried: Try, upstream: ScriptedUpstream, case: str) -> None:
    script, step, label, words = STEPS[case]
    upstream.always(script)
    result = tried("chat_completions")
    steps = {found.step: found for found in result.steps}
    assert {name: found.label for name, found in steps.items()} == {**dict.fromkeys(NAMES, "ok"), step: label}
    assert words in f"{steps[step].cause} {steps[step].mended}"
    assert (result.label, bool(result.fix)) == (("failed", True) if label == "failed" else ("ok", False))


def test_a_channel_that_cannot_answer_a_word_is_spared_the_rest(tried: Try, upstream: ScriptedUpstream) -> None:
    upstream.always(refusal(500, "Boom."))
    result = tried("responses")
    assert [step.step for step in result.steps] == ["text"]
    assert len(upstream.requests) == 1


def test_the_history_goes_back_as_the_gateway_stores_it(tried: Try, upstream: ScriptedUpstream) -> None:
    assert tried("chat_completions").label == "ok"
    text, call, output, turn, image = upstream.bodies
    assert [message["role"] for message in turn["messages"]] == ["user", "assistant", "user"]
    assert [message["role"] for message in output["messages"]] == ["user", "assistant", "tool"]
    assert "image_url" in orjson.dumps(image).decode()
    assert (text["max_tokens"], call["max_tokens"]) == (16, 2048)
