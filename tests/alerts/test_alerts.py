"""The operator's webhook: what is sent, by whom, how often, and that nothing waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
import requests

from app.alerts import webhook as webhook_module
from app.alerts.watcher import EXPIRES_SOON, channel_conditions, token_conditions
from app.alerts.webhook import MOST_WAITING, Webhook
from app.contract.alerts import Alert, AlertTarget
from app.contract.records import ChannelStatus, Token, WorkerStatus
from tests.conftest import MakeGateway
from tests.gateway import Gateway
from tests.ports import closed_port
from tests.relay.conftest import eventually
from tests.upstream import ScriptedUpstream, refusal

JSON = dict[str, Any]
DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}
SECRET = "whsec_c2lnbmVkLWJ5LXRoZS1nYXRld2F5"


class Receiver:
    """An HTTP server that keeps what it gets, and answers with the statuses of `answers` first."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.held = threading.Event()
        self.held.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.held.wait(60)
                receiver.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.held.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def alerts(self, event: str = "") -> list[JSON]:
        found = [orjson.loads(body) for _, body in self.requests]
        return [alert for alert in found if alert["type"].startswith(event)]

    def await_alert(self, event: str, times: int = 1) -> JSON:
        return dict(eventually(lambda: found if len(found := self.alerts(event)) >= times else None, event)[-1])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def alerting(receiver: Receiver) -> JSON:
    return {"alerts": {"url": receiver.url, "secret": SECRET}}


def test_a_channel_that_fails_and_works_again_is_reported_once_each(
    gateway: MakeGateway, upstream: ScriptedUpstream, receiver: Receiver
) -> None:
    row = upstream.channel("shaky", models=["m"], cooldown={"after": 1, "for": 1})
    running = gateway([row, DEMO], alerting(receiver), workers=2, worker_processes=1)
    upstream.enqueue(refusal(500, "out of order"))
    assert running.post("/responses", {"model": "m", "input": "hello"}).status_code >= 500
    down = receiver.await_alert("channel.down")
    assert down["data"] == {"channel": "shaky", "error": "upstream_error"}
    assert down["text"] == "Channel shaky is down: upstream_error."
    eventually(lambda: running.post("/responses", {"model": "m", "input": "hello"}).status_code == 200, "its trial")
    # The workers beside it may have failed as well; whoever has, one alert leaves for each edge.
    receiver.await_alert("channel.up")
    assert len(receiver.alerts("channel.")) == 2
    headers, body = receiver.requests[0]
    client = openai.OpenAI(api_key="none", webhook_secret=SECRET)
    client.webhooks.verify_signature(body, headers)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body + b" ", headers)
    assert SECRET not in running.log


def test_budgets_tables_and_backups_are_reported(gateway: MakeGateway, tmp_path: Path, receiver: Receiver) -> None:
    running = gateway([DEMO], alerting(receiver), workers=2)
    token = running.new_token("small", "--budget", "400tok/day", "--expires", "3d")
    body = {"model": "demo", "input": "hello", "max_output_tokens": 16}
    answers = [running.post("/responses", body, token=token).status_code for _ in range(80)]
    assert answers[0] == 200
    assert answers[-1] == 429
    assert receiver.await_alert("budget.")["data"]["token"] == "small"
    running.command("db", "backup", str(tmp_path / "missing" / "copy.db"), exit_code=78)
    assert receiver.await_alert("backup.failed")["data"]["file"].endswith("copy.db")
    good = running.channels_file.read_text()
    running.channels_file.write_text(good + "\nunknown_key: 1\n")
    assert "unknown_key" in receiver.await_alert("table.rejected")["data"]["errors"]
    warned = eventually(lambda: requests.get(f"{running.url}/readyz", timeout=20).json()["warnings"], "a warning")
    assert warned == {"table": "the channel table has errors, so the one before stays in use: antiphon check"}
    running.channels_file.write_text(good)
    receiver.await_alert("table.accepted")
    assert receiver.await_alert("token.expiring")["data"]["token"] == "small"
    assert len(receiver.alerts("table.")) == 2


def test_no_request_waits_for_a_receiver_that_does_not_answer(
    gateway: MakeGateway, upstream: ScriptedUpstream, receiver: Receiver
) -> None:
    receiver.held.clear()
    row = upstream.channel("shaky", models=["m"], cooldown={"after": 1, "for": 300})
    running = gateway([row, DEMO], alerting(receiver))
    upstream.enqueue(refusal(500, "out of order"))
    running.post("/responses", {"model": "m", "input": "hello"})
    for _ in range(5):
        assert running.post("/responses", {"model": "demo", "input": "hello"}).status_code == 200
    receiver.held.set()
    receiver.await_alert("channel.down")


def test_a_failed_delivery_is_repeated_with_the_same_id(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_module, "RETRIES", (0.0, 0.0, 0.0))
    receiver.answers = [500, 302]
    webhook = Webhook(lambda: AlertTarget(receiver.url, SECRET))
    webhook.start()
    webhook.send(Alert("disk.low", "words", {}))
    eventually(lambda: len(receiver.requests) == 3, "two retries")
    webhook.close()
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1


def test_the_queue_is_bounded_and_nothing_is_queued_without_a_target(caplog: pytest.LogCaptureFixture) -> None:
    webhook = Webhook(lambda: AlertTarget(f"http://127.0.0.1:{closed_port()}", SECRET))
    for _ in range(MOST_WAITING + 1):
        webhook.send(Alert("disk.low", "words", {}))
    assert "is not sent: 100 others wait" in caplog.text
    caplog.clear()
    silent = Webhook(lambda: None)
    for _ in range(MOST_WAITING + 1):
        silent.send(Alert("disk.low", "words", {}))
    assert not caplog.records


def test_a_secret_that_is_short_or_unset_sends_nothing(tmp_path: Path) -> None:
    short = Gateway(tmp_path, [DEMO], {"alerts": {"url": "https://hooks.invalid", "secret": "short"}})
    done = short.attempt("check")
    assert done.returncode == 78
    assert "at least 16 characters" in done.stdout + done.stderr
    short.write_channels([DEMO], {"alerts": {"url": "https://hooks.invalid", "secret": "${NO_SUCH_SECRET}"}})
    done = short.attempt("check")
    assert "no alerts are sent" in done.stdout + done.stderr


def test_a_channel_is_down_while_any_worker_leaves_it_out() -> None:
    good, bad = ChannelStatus("c"), ChannelStatus("c", cooldown_left=5.0, last_error="upstream_error")
    doubted = ChannelStatus("c", half_open=True)
    for statuses, is_bad in (((good, good), False), ((good, bad), True), ((doubted, good), True)):
        workers = [WorkerStatus(f"w{n}", 0, (status,), {}) for n, status in enumerate(statuses)]
        (condition,) = channel_conditions(workers)
        assert condition.is_bad is is_bad


def test_a_token_warns_in_its_last_week() -> None:
    def is_bad(**facts: Any) -> list[bool]:
        return [condition.is_bad for condition in token_conditions([Token(1, "t", "o", "p", **facts)], 1000)]

    assert is_bad(expires_at=1000 + EXPIRES_SOON) == [True]
    assert is_bad(expires_at=1001 + EXPIRES_SOON) == [False]
    assert is_bad() == is_bad(expires_at=999) == is_bad(expires_at=2000, revoked_at=1) == []
