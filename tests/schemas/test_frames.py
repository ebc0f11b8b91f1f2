"""What a WebSocket's frames may hold, and what becomes of whatever else they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.schemas.frames import Frame, parse_frame, read_frame

CREATE: dict[str, Any] = {"type": "response.create", "model": "m", "input": "Hello"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def framed(body: dict[str, Any]) -> Frame:
    return parse_frame(bytearray(orjson.dumps(body)))


def fault_of(read: Callable[[], object]) -> InvalidRequest | None:
    try:
        read()
    except InvalidRequest as error:
        return error
    return None


@given(st.binary() | (st.text().map(str.encode) | JSON.map(orjson.dumps)).map(bytearray))
def test_any_message_is_a_frame_or_an_error_of_the_clients(message: bytes | bytearray) -> None:
    refused = fault_of(lambda: parse_frame(message))
    if refused is None:
        assert parse_frame(message).body == orjson.loads(message)
    else:
        assert refused.code in ("invalid_frame", "invalid_json")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("stream_id", "generate", "stream", "background"), JSON)))
def test_the_envelope_is_never_part_of_the_request(envelope: dict[str, Any]) -> None:
    frame = framed({**CREATE, **envelope})
    refused = fault_of(lambda: read_frame(frame))
    if refused is None:
        wanted = read_frame(frame)
        assert wanted.request.keys() == {"model", "input", "stream"}
        assert wanted.request["stream"] is True
        assert wanted.generates is (envelope.get("generate") is not False)
    else:
        assert refused.param in ("stream_id", "generate")


@given(JSON.filter(lambda kind: kind != "response.create"))
def test_only_one_type_is_served(kind: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_frame(framed({**CREATE, "type": kind}))
    assert (refused.value.code, refused.value.param) == ("unsupported_frame", "type")


@pytest.mark.parametrize("nothing", ["", [], None])
def test_nothing_new_is_enough_with_a_history(nothing: Any) -> None:
    silent = {**CREATE, "input": nothing}
    assert "input" not in read_frame(framed({**silent, "previous_response_id": "resp_x"})).request
    assert "input" not in read_frame(framed({**silent, "generate": False})).request
    with pytest.raises(InvalidRequest, match="input"):
        read_frame(framed(silent))


def test_a_stream_id_is_a_text() -> None:
    assert framed({"stream_id": "left"}).stream_id == "left"
    assert [framed(body).stream_id for body in ({}, {"stream_id": 7}, {"stream_id": ""}, {"stream_id": None})] == [
        None
    ] * 4
    for stream_id in ("", "x" * 513):
        with pytest.raises(InvalidRequest) as refused:
            read_frame(framed({**CREATE, "stream_id": stream_id}))
        assert refused.value.param == "stream_id"
