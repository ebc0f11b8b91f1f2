import pytest

from app.contract.response import DEFAULTS, Echo, error_member, failed, in_progress
from app.contract.tools import placeholder
from app.contract.usage import Usage
from app.errors import EndedElsewhere, GatewayError

WHOLE = {"id": "resp_1", "created_at": 1, "model": "m", "status": "completed", "previous_response_id": None}


def test_an_empty_request_echoes_the_defaults() -> None:
    response = Echo.of({}, store=True).response(**WHOLE)
    assert {name: response[name] for name in DEFAULTS} == DEFAULTS


def test_values_of_the_client_are_never_overwritten_by_the_upstream() -> None:
    echo = Echo.of({"temperature": 0.2, "reasoning": {"effort": "low"}, "service_tier": "flex"}, store=True)
    filled = echo.with_upstream_defaults(
        {"temperature": 1.0, "top_p": 0.9, "reasoning": {"effort": "high", "summary": "auto"}, "service_tier": "x"}
    ).response(**WHOLE)
    assert filled["temperature"] == 0.2
    assert filled["top_p"] == 0.9
    assert filled["reasoning"] == {"effort": "low", "summary": "auto"}
    assert filled["service_tier"] == "flex"


def test_an_upstream_default_of_another_kind_is_not_taken() -> None:
    echo = Echo.of({}, store=True).with_upstream_defaults(
        {"temperature": "hot", "parallel_tool_calls": 1, "truncation": None}
    )
    assert echo.response(**WHOLE)["temperature"] == 1.0
    assert echo.response(**WHOLE)["parallel_tool_calls"] is True


def test_tools_are_echoed_whole_and_without_secrets() -> None:
    tools = [
        {"type": "function", "name": "f"},
        {"type": "mcp", "server_label": "s", "authorization": "secret", "headers": {"x": "y"}},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "g", "strict": True}]},
    ]
    echoed = Echo.of({"tools": tools}, store=True).response(**WHOLE)["tools"]
    assert echoed[0] == {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}
    assert echoed[1] == {"type": "mcp", "server_label": "s", "allowed_tools": None, "headers": None}
    assert echoed[2]["tools"][0]["strict"] is True
    assert echoed[2]["tools"][0]["parameters"] is None


@pytest.mark.parametrize(
    ("given", "echoed"),
    [
        ({"server_url": "https://mcp.exa.ai/mcp"}, {"server_url": "https://mcp.exa.ai/mcp"}),
        ({"server_url": placeholder("docs")}, {}),
        ({"server_url": placeholder("other")}, {"server_url": placeholder("other")}),
        ({"allowed_tools": ["a"]}, {"allowed_tools": ["a"]}),
        ({"allowed_tools": {"read_only": True}}, {"allowed_tools": {"read_only": True}}),
        (
            {"require_approval": {"never": {"tool_names": ["a"]}}},
            {"require_approval": {"never": {"tool_names": ["a"]}}},
        ),
        ({"server_description": "d", "later": 1}, {"server_description": "d", "later": 1}),
        ({"headers": {"X-Key": "secret"}, "authorization": "secret", "allowed_tools": None}, {}),
    ],
)
def test_the_echo_of_a_tool_server(given: dict[str, object], echoed: dict[str, object]) -> None:
    tool = {"type": "mcp", "server_label": "docs", **given}
    shown = {"type": "mcp", "server_label": "docs", "allowed_tools": None, "headers": None, **echoed}

    assert Echo.of({"tools": [tool]}, store=True).response(**WHOLE)["tools"] == [shown]


def test_storing_and_reading_back_gives_the_same_response() -> None:
    request = {
        "instructions": "Be brief.",
        "tools": [{"type": "custom", "name": "c"}],
        "metadata": {"a": "b"},
        "include": ["reasoning.encrypted_content"],
        "truncation": {"type": "auto"},
        "text": {"verbosity": "low"},
    }
    echo = Echo.of(request, store=True).with_upstream_defaults({"temperature": 0.5})
    usage = Usage(input_tokens=3, output_tokens=4)
    output = [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}]
    read = Echo.stored(echo.shared_settings(), echo.row_fields())
    assert read.response(**WHOLE, output=output, usage=usage) == echo.response(**WHOLE, output=output, usage=usage)


def test_encrypted_reasoning_is_shown_when_it_was_requested() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    assert "encrypted_content" not in Echo.of({}, store=True).shown(item)
    assert Echo.of({}, store=True).including(["reasoning.encrypted_content"]).shown(item) is item


def test_defaults_take_no_room_in_the_store() -> None:
    echo = Echo.of({"temperature": 1.0, "tools": [], "metadata": {}}, store=True)
    assert (echo.shared_settings(), echo.row_fields()) == (b"{}", b"{}")


def test_a_response_before_its_outcome_and_a_failed_one_keep_every_field() -> None:
    ended = Echo.of({}, store=True).response(
        **WHOLE,
        output=[{"type": "message"}],
        usage=Usage(1, 0, 0, 1),
        completed_at=2,
        incomplete_details={"reason": "x"},
    )
    begun = in_progress(ended)
    assert begun == Echo.of({}, store=True).response(**{**WHOLE, "status": "in_progress"})
    assert failed(begun, EndedElsewhere()) == Echo.of({}, store=True).response(
        **{**WHOLE, "status": "failed"}, error=error_member(EndedElsewhere())
    )


def test_the_error_of_a_failed_response_always_has_a_code() -> None:
    assert error_member(GatewayError("Bad.")) == {"code": "server_error", "message": "Bad."}
