"""The entries of passthrough endpoints, through the functions that the relay calls."""

from __future__ import annotations

import orjson
import pytest

from app import formats
from app.channels.surfaces import SURFACES
from app.endpoints import chat_completions
from app.errors import UpstreamError
from app.formats import PASSTHROUGH, PassthroughEndpoint, StreamCodec

#: The endpoints that stream, with their codecs.
CODECS = {chat_completions.ENDPOINT.path: chat_completions.codec}
codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())


@pytest.mark.parametrize("endpoint", PASSTHROUGH.values(), ids=PASSTHROUGH.keys())
def test_an_entry_is_an_endpoint_with_a_refusal_of_its_own(endpoint: PassthroughEndpoint) -> None:
    assert f"/v1{endpoint.path}" in [known.path for known in SURFACES]
    assert len({known.code for known in SURFACES}) == len(SURFACES)


@codecs
def test_a_request_leaves_with_the_name_that_the_upstream_has_for_its_model(codec: StreamCodec) -> None:
    request = {"model": "ours", "unknown": {"kept": 1}}
    sent = orjson.loads(codec.encode(request, "theirs"))
    assert (sent["model"], sent["unknown"]) == ("theirs", {"kept": 1})
    assert request["model"] == "ours"


@codecs
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"a"', b"{}"])
def test_another_body_than_an_answer_is_an_error_in_one_piece_and_in_a_stream(codec: StreamCodec, body: bytes) -> None:
    with pytest.raises(UpstreamError):
        codec.read_whole(body)
    decoder = codec.decoder({"model": "ours"})
    decoder.feed(b"data: " + body + b"\n\n")
    decoder.finish()
    assert decoder.failure is not None
    assert not decoder.summary.finished


@pytest.mark.parametrize("name", sorted(formats.names()))
def test_a_format_says_where_each_kind_of_request_goes(name: str) -> None:
    format_, counting = formats.load(name), formats.counting(name)
    paths = [format_.path("a/model", stream) for stream in (False, True)]
    if counting is not None:
        paths.append(counting.count_path("a/model"))
    assert all(path.startswith("/") and not path.endswith("/") for path in paths)
