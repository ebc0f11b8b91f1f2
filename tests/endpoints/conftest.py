"""One real gateway for all endpoint tests, with a channel for every format. A new format joins by one row here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import pytest

from tests.gateway import Gateway
from tests.upstream import ScriptedUpstream

JSON = dict[str, Any]

EXACT = "exact-model"
#: The model of each format, and the row of the channel table that serves it.
FORMATS: dict[str, tuple[str, Callable[[ScriptedUpstream], JSON]]] = {
    "demo": ("demo", lambda upstream: {"name": "demo", "format": "demo", "models": ["demo"]}),
    "responses": (
        EXACT,
        lambda upstream: upstream.channel("exact", models=[EXACT], encrypted_reasoning=True, mcp="native"),
    ),
}
#: The model of an upstream that takes anything whatever, for tests that send anything whatever.
OPEN_MINDED = "open/minded"
MODELS = [pytest.param(model, id=name) for name, (model, _) in FORMATS.items()]


@pytest.fixture(scope="session")
def _scripted() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


class _OpenMinded(BaseHTTPRequestHandler):
    """Says the same to every request and looks at none."""

    protocol_version = "HTTP/1.1"
    part = {"type": "output_text", "text": "Yes.", "annotations": [], "logprobs": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    response = {"id": "resp_1", "object": "response", "status": "completed", "model": "any", "created_at": 1}

    def do_POST(self) -> None:
        received = self.rfile.read(int(self.headers["Content-Length"]))
        body = {**self.response, "output": [self.message], "usage": None}
        end = b"event: response.completed\ndata: %b\n\n"
        event = {"type": "response.completed", "sequence_number": 0, "response": body}
        streams = orjson.loads(received).get("stream") is True
        data = end % orjson.dumps(event) if streams else orjson.dumps(body)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if streams else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="session")
def _open_minded() -> Iterator[JSON]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _OpenMinded) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield {
            "name": "open-minded",
            "format": "responses",
            "base_url": f"http://127.0.0.1:{server.server_port}/v1",
            "models": [OPEN_MINDED],
            "api_key": "none",
            "mcp": "native",
        }
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def _serving(
    tmp_path_factory: pytest.TempPathFactory, _scripted: ScriptedUpstream, _open_minded: JSON
) -> Iterator[Gateway]:
    rows = [*(row(_scripted) for _, row in FORMATS.values()), _open_minded]
    with Gateway(tmp_path_factory.mktemp("endpoints"), rows) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def stranger(_serving: Gateway) -> str:
    """A token of another owner."""
    return _serving.new_token("stranger", "--owner", "stranger")


@pytest.fixture
def exact(_scripted: ScriptedUpstream) -> Iterator[ScriptedUpstream]:
    """The upstream behind the `responses` channel; `bodies` is what it was sent in this test."""
    _scripted.reset()
    yield _scripted
    _scripted.reset()


@pytest.fixture
def api(_serving: Gateway, exact: ScriptedUpstream) -> Gateway:
    """The gateway that all tests share: a test changes nothing in it but what it creates."""
    return _serving


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    """Each format in turn."""
    name: str = request.param
    return name


@pytest.fixture
def create(api: Gateway) -> Callable[..., JSON]:
    """`create(model, "hello", store=False)`: the body of the response, which must be a 200."""

    def post(model: str, input: Any = None, **parameters: Any) -> JSON:
        body = {"model": model, **parameters} | ({} if input is None else {"input": input})
        answer = api.post("/responses", body)
        assert answer.status_code == 200, answer.text
        response: JSON = answer.json()
        return response

    return post
