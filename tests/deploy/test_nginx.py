"""Through the shipped nginx site, on a socket that outlives the service."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest
import requests
from websockets.exceptions import InvalidStatus

from tests.deploy.conftest import Proxy, Service
from tests.gateway import portions
from tests.relay.conftest import eventually
from tests.response_contract import check_error, check_response, check_stream
from tests.sse_reader import follow
from tests.upstream import ScriptedUpstream, silent, stalled
from tests.websocket_client import Socket

ASK = {"model": "m", "input": "Say something to me"}
AT_WORK = 6
CLIENTS = 4
ENOUGH = 40
#: The status for a WebSocket that finds no place.
UPGRADE_REQUIRED = 426


@pytest.fixture(autouse=True)
def _forgets(model: ScriptedUpstream) -> Iterator[None]:
    model.reset()
    yield
    model.reset()


def test_nginx_finds_nothing_to_complain_of_in_the_site(deployed: Service) -> None:
    assert "[warn]" not in deployed.proxy.check()


def test_an_event_arrives_before_the_next_one_is_made(deployed: Service, model: ScriptedUpstream) -> None:
    model.enqueue(stalled(after=6))
    with deployed.stream(ASK) as answer:
        events = follow(portions(answer))
        seen = [next(events) for _ in range(6)]
        assert not any(event.name == "response.completed" for event in seen)
        model.release()
        rest = list(events)
    assert "response.completed" in [event.name for event in rest]


def test_a_whole_stream_passes_unchanged(deployed: Service) -> None:
    answer = deployed.stream(ASK)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert "Content-Encoding" not in answer.headers
    check_stream(answer.content, status="completed")


def test_beyond_the_cap_is_503_at_once_and_healthz_answers(deployed: Service, model: ScriptedUpstream) -> None:
    model.always(silent())
    with ThreadPoolExecutor(AT_WORK) as clients:
        held = [clients.submit(_post, deployed) for _ in range(AT_WORK)]
        model.wait_for_request(AT_WORK)
        refused = _post(deployed)
        check_error(refused, 503, "server_is_overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        assert _get(deployed, "/healthz").json() == {"status": "ok"}
        assert len(model.requests) == AT_WORK
        model.release(AT_WORK)
        assert [answer.result().status_code for answer in held] == [200] * AT_WORK


def test_clients_that_send_half_a_request_hold_no_thread(deployed: Service) -> None:
    head = f"POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {deployed.token}\r\n"
    body = "Content-Length: 100000\r\nContent-Type: application/json\r\n\r\n{"
    with ExitStack() as stack:
        for sent in [head, head + body] * 10:
            stack.enter_context(deployed.dial_proxy()).sendall(sent.encode())
        check_response(_post(deployed).json(), status="completed")


def test_the_gateway_learns_that_it_is_reached_by_https(deployed: Service) -> None:
    answer = _get(deployed, "/v1/nothing", {"X-Forwarded-Proto": "http", "Forwarded": "proto=http"})
    assert "https://127.0.0.1/v1" in answer.json()["error"]["message"]


def test_the_console_is_served_over_https_alone(deployed: Service) -> None:
    deployed.new_token("console", "--owner", "ada", "--console", "operator")
    authority = str(deployed.proxy.authority)
    trusted = {**deployed.environment, "ANTIPHON_URL": deployed.base_url, "SSL_CERT_FILE": authority}
    done = subprocess.run(
        [*deployed.program, "doctor"], cwd=deployed.directory, env=trusted, capture_output=True, text=True, timeout=60
    )
    assert f"ok       console      on, and reached at {deployed.url}/console" in done.stdout
    with _client(deployed.proxy) as client:
        plain = client.get(f"{deployed.proxy.plain_url}/console/sign-in", allow_redirects=False, timeout=20)
    assert (plain.status_code, plain.headers["Location"]) == (308, "https://127.0.0.1/console/sign-in")


def test_a_websocket_passes_and_its_turns_come_event_by_event(deployed: Service, model: ScriptedUpstream) -> None:
    model.enqueue(stalled(after=6))
    with _socket(deployed) as sock:
        sock.ask(store=False)
        begun = sock.hear("response.output_text.delta")
        model.release()
        completed = sock.rest()[-1]["response"]
        sock.answer(store=False, previous_response_id=completed["id"])
    assert begun["delta"]


def test_a_refused_websocket_gets_the_reason(deployed: Service) -> None:
    with pytest.raises(InvalidStatus) as refused:
        _socket(deployed, "wrong")
    assert refused.value.response.status_code == 401
    assert orjson.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"


def test_a_client_that_leaves_its_websocket_ends_its_upstream(deployed: Service, model: ScriptedUpstream) -> None:
    model.enqueue(silent())
    with _socket(deployed) as sock:
        sock.ask()
        model.wait_for_request()
    model.wait_hangup()


@pytest.mark.parametrize("protocol", ["h2c", "TLS/1.0", "websocket, h2c"])
def test_nothing_else_is_upgraded(deployed: Service, protocol: str) -> None:
    switch = {"Upgrade": protocol, "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
    assert _get(deployed, "/healthz", switch).json() == {"status": "ok"}


def test_a_token_sent_over_http_is_refused_with_the_reason(deployed: Service) -> None:
    with _client(deployed.proxy) as client:
        answer = client.post(f"{deployed.proxy.plain_url}/v1/responses", json=ASK, timeout=20)
        page = client.get(f"{deployed.proxy.plain_url}/console", timeout=20, allow_redirects=False)
    check_error(answer, 403, "https_required")
    assert (page.status_code, page.headers["Location"]) == (308, "https://127.0.0.1/console")


def test_a_body_that_nginx_refuses_gets_an_error_that_clients_read(deployed: Service) -> None:
    with deployed.dial_proxy() as sock:
        sock.sendall(b"POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 67108865\r\n\r\n")
        head, _, body = _read_until(sock, b"}}").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert orjson.loads(body)["error"]["code"] == "request_too_large"


def test_without_a_gateway_clients_get_retry_after(tmp_path: Path) -> None:
    with Proxy(tmp_path / "nginx", tmp_path / "nobody.sock") as proxy, _client(proxy) as client:
        answer = client.post(f"{proxy.url}/v1/responses", json=ASK, timeout=20)
    check_error(answer, 502, "server_unavailable")
    assert answer.headers["Retry-After"] == "5"


def test_a_restart_under_load_refuses_no_request_and_a_running_stream_ends_properly(
    tmp_path: Path, model: ScriptedUpstream
) -> None:
    with Service(tmp_path / "service", [model.channel()], workers=2, threads=16) as service:
        model.enqueue(stalled(after=6))
        with service.stream(ASK) as stream, ThreadPoolExecutor(1) as reader, Load(service) as load:
            content = reader.submit(lambda: stream.content)
            load.wait(ENOUGH)
            assert service.stop() == 0
            events = check_stream(content.result(), status="failed")
            before = load.answered
            service.start()
            load.wait(before + ENOUGH)
    assert load.faults == []
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-1]["response"]["error"]["code"] == "server_shutting_down"


class Load:
    """Clients that post again and again; every other one makes a new connection each time."""

    def __init__(self, service: Service) -> None:
        self.answered = 0
        self.faults: list[str] = []
        self._service = service
        self._changed = threading.Condition()
        self._ending = False
        self._clients = [threading.Thread(target=self._post, args=(number % 2,)) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        for client in self._clients:
            client.join(60)

    def wait(self, count: int) -> None:
        """Until so many have been answered, or one has not."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.answered >= count or self.faults, 60)

    def _post(self, fresh: int) -> None:
        with _client(self._service.proxy) as session:
            session.headers["Authorization"] = f"Bearer {self._service.token}"
            if fresh:
                session.headers["Connection"] = "close"
            while not self._ending:
                self._once(session)

    def _once(self, session: requests.Session) -> None:
        try:
            answer = session.post(f"{self._service.base_url}/responses", json=ASK, timeout=60)
            fault = None if answer.status_code == 200 else f"{answer.status_code}: {answer.text}"
        except requests.RequestException as error:
            fault = repr(error)
        with self._changed:
            self.answered += 1
            if fault:
                self.faults.append(fault)
            self._changed.notify_all()


def _socket(service: Service, token: str | None = None) -> Socket:
    """Waits for a place: that of an earlier client becomes free a moment after it has left."""
    context = ssl.create_default_context(cafile=service.proxy.authority)
    # The client library reads in one thread and writes in another. With TLS 1.3 session tickets arrive after the TLS
    # handshake, and the connection hangs when one thread reads a ticket while the other sends the request.
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def admitted() -> Socket | None:
        try:
            return Socket(service, token, ssl=context)
        except InvalidStatus as refused:
            if refused.response.status_code != UPGRADE_REQUIRED:
                raise
            return None

    return eventually(admitted, "a place for a socket")


def _client(proxy: Proxy) -> requests.Session:
    """One that trusts the certificate and minds no proxies of the environment."""
    session = requests.Session()
    session.trust_env, session.verify = False, str(proxy.authority)
    return session


def _post(service: Service) -> requests.Response:
    with _client(service.proxy) as client:
        headers = {"Authorization": f"Bearer {service.token}"}
        return client.post(f"{service.base_url}/responses", json=ASK, headers=headers, timeout=60)


def _get(service: Service, path: str, headers: dict[str, str] | None = None) -> requests.Response:
    with _client(service.proxy) as client:
        return client.get(service.url + path, headers=headers, timeout=20)


def _read_until(sock: socket.socket, mark: bytes) -> bytes:
    received = b""
    while mark not in received:
        data = sock.recv(65536)
        assert data, f"the connection ended before {mark!r}: {received!r}"
        received += data
    return received


def test_the_console_is_reached_by_https_alone_with_a_cookie_of_its_own(deployed: Service) -> None:
    """nginx leaves its port out of the host, so neither the origin nor the cookie's name may depend on it."""
    token = deployed.new_token("console-session", "--console", "owner")
    url, trusted = deployed.proxy.url, str(deployed.proxy.authority)
    with requests.Session() as browser:
        browser.trust_env = False
        browser.verify = trusted
        plain = browser.get(f"{deployed.proxy.plain_url}/console/sign-in", allow_redirects=False)
        assert (plain.status_code, plain.headers["Location"]) == (308, "https://127.0.0.1/console/sign-in")

        headers = {"Sec-Fetch-Site": "same-origin", "Origin": url}
        answer = browser.post(
            f"{url}/console/sign-in",
            data={"token": token, "next": "/console/people"},
            headers=headers,
            allow_redirects=False,
        )
        assert (answer.status_code, answer.headers["Location"]) == (303, "/console/people")
        name, *flags = answer.headers["Set-Cookie"].split("; ")
        assert name.startswith("__Host-antiphon-")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= {*flags}
        page = browser.get(f"{url}/console/people")
        assert page.status_code == 200
        assert page.headers["Strict-Transport-Security"]

        csrf = page.text.partition('name="csrf" value="')[2].partition('"')[0]
        for site, status in (("cross-site", 403), ("same-origin", 303)):
            form = {"data": {"csrf": csrf}, "headers": {"Sec-Fetch-Site": site}, "allow_redirects": False}
            assert browser.post(f"{url}/console/sign-out", **form).status_code == status
        assert browser.get(f"{url}/console/people", allow_redirects=False).status_code == 303
    for log in deployed.proxy.directory.glob("*.log"):
        assert token not in log.read_text()
