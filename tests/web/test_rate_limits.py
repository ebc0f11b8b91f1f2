"""Limits of tokens on every way into the gateway: who is refused, in which words and headers, and what stays behind."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import orjson
import pytest
import requests

from app.store.token_counters import Counters
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.store import rows
from tests.store.admitting import use_without_end
from tests.upstream import ScriptedUpstream, refusal, stalled
from tests.websocket_client import Socket

JSON = dict[str, Any]

ENDED = ("completed", "failed", "cancelled", "incomplete")
DURATION = re.compile(r"(?:\d+h)?(?:\d+m)?\d+s")
ROW = "requests, tokens, day_tokens, day_micro, month_tokens, month_micro, running"
numbers = count()


class Limited:
    """A limited token whose minute, day and month do not end."""

    def __init__(self, gateway: Gateway, upstream: ScriptedUpstream, *options: str, model: str = "m") -> None:
        self.gateway, self.upstream, self.model = gateway, upstream, model
        self.name = f"limited-{next(numbers)}"
        made = orjson.loads(gateway.command("tokens", "create", self.name, *options, "--json"))
        self.secret: str = made["token"]
        self.key: int = made["id"]
        use_without_end(gateway.database_url, self.key)

    def use(self, **counters: int) -> None:
        """Makes the counters what earlier turns have used."""
        sums = ", ".join(f"{name} = {value}" for name, value in counters.items())
        rows.execute(self.gateway.database_url, f"UPDATE token_use SET {sums} WHERE token = {self.key}")

    @property
    def used(self) -> Counters:
        found = rows.execute(self.gateway.database_url, f"SELECT {ROW} FROM token_use WHERE token = {self.key}")
        return Counters(*found[0])

    def body(self, **keys: Any) -> JSON:
        return {"model": self.model, "input": "Say something to me", **keys}

    def post(self, **keys: Any) -> requests.Response:
        return self.gateway.post("/responses", self.body(**keys), token=self.secret)

    def stream(self, **keys: Any) -> requests.Response:
        return self.gateway.stream(self.body(**keys), token=self.secret)

    def chat(self, **keys: Any) -> requests.Response:
        body = {"model": self.model, "messages": [{"role": "user", "content": "Say something to me"}], **keys}
        return self.gateway.post("/chat/completions", body, token=self.secret)

    def compact(self) -> requests.Response:
        items = [{"role": "user", "content": "Say something to me"}]
        return self.gateway.post("/responses/compact", self.body(input=items), token=self.secret)

    def background(self) -> requests.Response:
        return self.post(background=True)

    def ended(self, response_id: str) -> JSON:
        """The background response once it has ended."""

        def look() -> JSON | None:
            found: JSON = self.gateway.get(f"/responses/{response_id}", token=self.secret).json()
            return found if found["status"] in ENDED else None

        return dict(eventually(look, "the end of the background response"))


Make = Callable[..., Limited]

HTTP: dict[str, Callable[[Limited], requests.Response]] = {
    "json": Limited.post,
    "stream": Limited.stream,
    "unstored": lambda token: token.post(store=False),
    "unstored stream": lambda token: token.stream(store=False),
    "chat": Limited.chat,
    "chat stream": lambda token: token.chat(stream=True, stream_options={"include_usage": True}),
    "compact": Limited.compact,
    "background": Limited.background,
}
on_every_way = pytest.mark.parametrize("way", HTTP)


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    channels = [upstream.channel("one", models=["m", "priced", "free"], chat=True)]
    table = {
        "limits": {"rpm": 5000},
        "models": {"priced": {"price": {"input": 1000, "output": 2000}}, "free": {"price": {"input": 0, "output": 0}}},
    }
    directory = tmp_path_factory.mktemp("limits")
    with Gateway(directory, channels, table, workers=2, worker_processes=1) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def clean(upstream: ScriptedUpstream) -> Iterator[None]:
    upstream.reset()
    yield
    upstream.reset()


@pytest.fixture
def make(gateway: Gateway, upstream: ScriptedUpstream) -> Make:
    def make(*options: str, **keys: Any) -> Limited:
        return Limited(gateway, upstream, *options, **keys)

    return make


@pytest.fixture(scope="module")
def spent(gateway: Gateway, upstream: ScriptedUpstream) -> Limited:
    """A token that has made all requests of its minute."""
    token = Limited(gateway, upstream, "--rpm", "2")
    token.use(requests=2)
    return token


@pytest.fixture(scope="module")
def exhausted(gateway: Gateway, upstream: ScriptedUpstream) -> Limited:
    """A token that has spent its budget."""
    token = Limited(gateway, upstream, "--budget", "1ktok/day")
    token.use(day_tokens=1000)
    return token


# --- who is refused ---------------------------------------------------------------------------------------------


@on_every_way
def test_a_token_is_refused_that_has_no_request_left(spent: Limited, way: str) -> None:
    answer = HTTP[way](spent)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (429, "requests", "rate_limit_exceeded")
    again = re.fullmatch(
        rf"Rate limit reached for token '{spent.name}' on requests per min \(RPM\): Limit 2, Used 2, Requested 1\. "
        r"Please try again in (\d+)s\.",
        error["message"],
    )
    assert again is not None
    assert answer.headers["retry-after-ms"] == f"{again[1]}000"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert spent.upstream.bodies == []
    assert spent.used == Counters(requests=2)


@on_every_way
def test_a_token_is_refused_whose_budget_is_spent(exhausted: Limited, way: str) -> None:
    answer = HTTP[way](exhausted)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (429, "insufficient_quota", "insufficient_quota")
    assert "1,000 tokens a day, has used or reserved 1,000 tokens" in error["message"]
    assert re.search(r"resets at 20\d\d-\d\d-\d\dT00:00:00Z, in (\d+h)?(\d+m)?\d+s", error["message"])
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    assert exhausted.upstream.bodies == []
    assert exhausted.used == Counters(day_tokens=1000)


def test_a_frame_is_refused_by_an_error_that_leaves_the_socket_open(spent: Limited, gateway: Gateway) -> None:
    with Socket(gateway, spent.secret) as socket:
        for _ in range(2):
            error = socket.refused()
            assert error["code"] == "rate_limit_exceeded"
            assert error["headers"]["x-ratelimit-limit-requests"] == "2"
            assert int(error["headers"]["retry-after"]) >= 1


def test_a_refusal_is_a_row_and_a_line_of_the_log(spent: Limited, gateway: Gateway) -> None:
    answer = spent.post()
    request_id = answer.headers["x-request-id"]
    query = f"SELECT status, error, input_tokens FROM response WHERE request_id = '{request_id}'"
    [(status, error, tokens)] = eventually(lambda: rows.execute(gateway.database_url, query), "the row of the refusal")
    assert (status, orjson.loads(error)["code"], tokens) == ("failed", "rate_limit_exceeded", None)
    eventually(
        lambda: any(request_id in line and "rate_limit_exceeded" in line for line in gateway.log.splitlines()),
        "the line of the refusal",
    )


@pytest.mark.parametrize(
    ("keys", "status", "code"),
    [
        ({"model": "unknown"}, 400, "model_not_found"),
        ({"input": 5}, 400, "invalid_type"),
        ({"previous_response_id": "resp_0"}, 400, "previous_response_not_found"),
        ({"tools": [{"type": "mcp", "server_label": "none"}]}, 400, None),
        ({}, 429, "rate_limit_exceeded"),
    ],
)
def test_what_is_wrong_with_the_request_is_said_before_its_limits(
    spent: Limited, keys: JSON, status: int, code: str | None
) -> None:
    answer = spent.post(**keys)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code or answer.json()["error"]["code"])


def test_a_request_that_never_fits_is_told_so(make: Make) -> None:
    token = make("--tpm", "20")
    answer = token.post(input="Say something " * 50)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (429, "tokens", "rate_limit_exceeded")
    assert error["message"].startswith(f"Request too large for token '{token.name}' on tokens per min (TPM): Limit 20,")
    assert answer.headers["x-should-retry"] == "false"


# --- what a turn counts -----------------------------------------------------------------------------------------


def usage_of(way: str, token: Limited, answer: requests.Response) -> int:
    """The tokens that the client was told."""
    assert answer.status_code == 200, answer.text
    if way == "background":
        return int(token.ended(answer.json()["id"])["usage"]["total_tokens"])
    return int(re.findall(r'"total_tokens": ?(\d+)', answer.text)[-1])


def test_each_way_counts_a_request_and_the_tokens_that_it_has_used(make: Make, gateway: Gateway) -> None:
    token = make("--rpm", "100", "--tpm", "1000000", "--concurrency", "1")
    tokens = 0
    for number, way in enumerate(HTTP, 1):
        tokens += usage_of(way, token, HTTP[way](token))
        expected = Counters(number, tokens, tokens, 0, tokens, 0, 0)
        eventually(lambda expected=expected: token.used == expected, f"{expected} after {way}, found {token.used}")
    with Socket(gateway, token.secret) as socket:
        for store in (True, False):
            tokens += socket.answer(store=store)["usage"]["total_tokens"]
    assert token.used == Counters(len(HTTP) + 2, tokens, tokens, 0, tokens, 0, 0)


def test_a_failed_turn_counts_as_a_request_without_tokens(make: Make) -> None:
    token = make("--tpm", "1000000", "--concurrency", "1")
    token.upstream.always(refusal(400, "no"))
    for way in ("json", "stream", "unstored", "chat"):
        assert HTTP[way](token).status_code == 400
    assert token.used == Counters(requests=4)


def test_an_output_limit_is_reserved_until_the_answer_ends(make: Make) -> None:
    token = make("--tpm", "10000")
    token.upstream.enqueue(stalled(3))
    with token.stream(max_output_tokens=9000) as running:
        token.upstream.wait_for_request()
        assert 9000 < token.used.tokens < 9100
        assert int(running.headers["x-ratelimit-remaining-tokens"]) == 10000 - token.used.tokens
        assert token.post().status_code == 200
        assert token.post(input="word " * 1000).status_code == 429
        token.upstream.release()
        assert b"response.completed" in running.content
    assert token.used.tokens < 1000


def test_money_is_counted_to_the_micro_unit(make: Make) -> None:
    token = make("--budget", "50usd/day,100usd/month", model="priced")
    usage = token.post().json()["usage"]
    cost = 1000 * usage["input_tokens"] + 2000 * usage["output_tokens"]
    assert (token.used.day_micro, token.used.month_micro) == (cost, cost)
    token.use(month_micro=100_000_000)
    error = token.post().json()["error"]
    assert error["code"] == "insufficient_quota"
    assert "100 USD a month, has used or reserved 100 USD" in error["message"]


@on_every_way
def test_a_budget_in_money_needs_a_price(gateway: Gateway, in_money: Limited, way: str) -> None:
    answer = HTTP[way](in_money)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "price_unknown", "model")
    assert "'m'" in error["message"]


@pytest.fixture(scope="module")
def in_money(gateway: Gateway, upstream: ScriptedUpstream) -> Limited:
    return Limited(gateway, upstream, "--budget", "5eur/month")


# --- turns at work ----------------------------------------------------------------------------------------------


def test_requests_at_once_are_limited_over_workers_and_end_with_their_answers(make: Make) -> None:
    token = make("--concurrency", "2")
    token.upstream.enqueue(stalled(3), times=2)
    with token.stream(), token.stream(store=False):
        token.upstream.wait_for_request(2)
        assert token.used.running == 2
        # Enough requests that both workers get some.
        for _ in range(6):
            answer = token.post()
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (429, "rate_limit_exceeded")
            assert "on requests at once: Limit 2, Running 2." in error["message"]
            assert answer.headers["retry-after-ms"] == "1000"
    eventually(lambda: token.used.running == 0, "the places of clients that left")
    assert token.post().status_code == 200


def test_an_answer_leaves_its_place_before_the_client_has_it(make: Make) -> None:
    token = make("--concurrency", "1")
    for way in ("json", "unstored", "stream", "unstored stream", "chat", "chat stream") * 2:
        answer = HTTP[way](token)
        assert (way, answer.status_code) == (way, 200)
        assert answer.content


def test_a_background_response_waits_for_its_place(make: Make) -> None:
    token = make("--concurrency", "1")
    token.upstream.enqueue(stalled(3))
    with token.stream() as running:
        token.upstream.wait_for_request()
        queued = token.background().json()
        assert queued["status"] == "queued"
        token.upstream.release()
        assert b"response.completed" in running.content
    assert token.ended(queued["id"])["status"] == "completed"
    eventually(lambda: token.used.running == 0, "the place of the background response")


def test_a_running_stream_outlives_its_budget(make: Make) -> None:
    token = make("--budget", "1ktok/month")
    token.upstream.enqueue(stalled(3))
    with token.stream() as running:
        token.upstream.wait_for_request()
        token.use(month_tokens=5000)
        assert token.post().status_code == 429
        token.upstream.release()
        assert b"response.completed" in running.content


def test_a_budget_is_noticed_once_at_80_percent_and_once_when_it_is_spent(make: Make, gateway: Gateway) -> None:
    token = make("--budget", "1ktok/day")

    def notices() -> Sequence[str]:
        return [line for line in gateway.log.splitlines() if f"token {token.name} has used" in line]

    token.use(day_tokens=700)
    assert token.post().status_code == 200
    assert notices() == []
    token.use(day_tokens=850)
    for _ in range(4):
        assert token.post().status_code == 200
    eventually(notices, "the notice at 80 %")
    token.use(day_tokens=1000)
    for _ in range(4):
        assert token.post().status_code == 429
    eventually(lambda: len(notices()) >= 2, "the notice at 100 %")
    assert len(notices()) == 2
    assert "100 % of its budget 1ktok/day: 1,000 tokens; it resets at" in notices()[1]


# --- headers and settings ---------------------------------------------------------------------------------------


def rates(answer: requests.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("x-ratelimit")}


def test_every_answer_to_a_limited_token_has_its_rates(make: Make, gateway: Gateway) -> None:
    token = make("--rpm", "60", "--tpm", "9000")
    token.use(requests=7, tokens=1000)
    answers = [
        gateway.get("/models", token=token.secret),
        gateway.get("/responses/resp_0", token=token.secret),
        gateway.get("/nothing", token=token.secret),
        gateway.request("PUT", "/responses", token=token.secret),
        token.post(input=5),
        gateway.post("/conversations", {}, token=token.secret),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 404, 405, 400, 200]
    # A path without a view is answered before the token is read.
    for answer in (answers[0], answers[1], answers[4], answers[5]):
        found = rates(answer)
        resets = [found.pop(f"x-ratelimit-reset-{what}") for what in ("requests", "tokens")]
        assert found == {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "53",
            "x-ratelimit-limit-tokens": "9000",
            "x-ratelimit-remaining-tokens": "8000",
        }
        assert all(DURATION.fullmatch(reset) for reset in resets)
    first = rates(token.post())
    assert (first["x-ratelimit-remaining-requests"], len(first)) == ("52", 6)


def test_a_token_has_the_limits_of_the_table_unless_it_lifts_them(make: Make, gateway: Gateway) -> None:
    assert rates(make().post())["x-ratelimit-limit-requests"] == "5000"
    assert rates(make("--rpm", "none").post()) == {}
    changed = make("--rpm", "7")
    assert rates(changed.post())["x-ratelimit-limit-requests"] == "7"
    gateway.command("tokens", "update", changed.name, "--rpm", "default", "--tpm", "77")
    eventually(
        lambda: rates(gateway.get("/models", token=changed.secret)).get("x-ratelimit-limit-tokens") == "77",
        "the changed limits",
    )
    assert rates(gateway.get("/models", token=changed.secret))["x-ratelimit-limit-requests"] == "5000"


# --- without the counters ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def without_counters(gateway: Gateway) -> Iterator[None]:
    rows.execute(gateway.database_url, "ALTER TABLE token_use RENAME TO lost_token_use")
    try:
        yield
    finally:
        rows.execute(gateway.database_url, "ALTER TABLE lost_token_use RENAME TO token_use")


def test_without_its_counters_a_limited_token_is_told_to_come_back(make: Make, gateway: Gateway) -> None:
    limited, free = make("--concurrency", "1"), make("--rpm", "none")
    limited.upstream.enqueue(stalled(3))
    with limited.stream() as running:
        limited.upstream.wait_for_request()
        with without_counters(gateway):
            answer = limited.post()
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
            assert "retry-after" in answer.headers
            assert free.post().status_code == 200
        limited.upstream.release()
        assert b"response.completed" in running.content
    eventually(lambda: limited.used.running == 0, "the end of the turn")
    assert limited.post().status_code == 200
