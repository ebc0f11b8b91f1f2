"""Sends alerts to the operator's URL from a thread of its own, so that no request waits for it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable

import orjson
import requests

from app.contract.alerts import Alert, AlertTarget

log = logging.getLogger(__name__)

#: Alerts that wait; further ones are only in the log.
MOST_WAITING = 100
#: Seconds before each retry.
RETRIES = (1.0, 5.0, 25.0)
_TIMEOUT = (5.0, 10.0)
#: Marks a secret that is base64, as OpenAI and other senders write it.
_ENCODED = "whsec_"
_LAST = None


class Webhook:
    """The sender of one process."""

    def __init__(self, target: Callable[[], AlertTarget | None]) -> None:
        """`target`: that of the present table; None when alerts are off."""
        self._target = target
        self._waiting: queue.Queue[Alert | None] = queue.Queue(MOST_WAITING)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    @property
    def on(self) -> bool:
        return self._target() is not None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Alerts that are not sent yet get one more attempt and no retry."""
        self._ended.set()
        if self._thread.is_alive():
            try:
                self._waiting.put_nowait(_LAST)
            except queue.Full:
                return
            self._thread.join(sum(_TIMEOUT))

    def send(self, alert: Alert) -> None:
        """Returns at once. Without a target the alert is dropped: the log has its own line."""
        if not self.on:
            return
        try:
            self._waiting.put_nowait(alert)
        except queue.Full:
            log.warning("the alert %s is not sent: %d others wait", alert.event, MOST_WAITING)

    def _run(self) -> None:
        while (alert := self._waiting.get()) is not _LAST:
            try:
                self._deliver(alert)
            except Exception:
                # The border that must not die: the next alert may be the important one.
                log.exception("the alert %s is not sent", alert.event)

    def _deliver(self, alert: Alert) -> None:
        target = self._target()
        if target is None:
            return
        # The same id in every attempt, by which a receiver knows what it has had.
        alert_id = f"alert_{secrets.token_hex(12)}"
        why = post(target, alert, alert_id)
        for pause in RETRIES:
            if why is None or self._ended.wait(pause):
                break
            why = post(target, alert, alert_id)
        if why is not None:
            log.error("the alert %s is not sent: %s", alert.event, why)


def post(target: AlertTarget, alert: Alert, alert_id: str) -> str | None:
    """One attempt. Returns why it failed, without the URL, which may hold a secret; None when it was accepted."""
    now = int(time.time())
    body = orjson.dumps(
        {"id": alert_id, "object": "event", "type": alert.event, "created_at": now, "text": alert.text}
        | {"data": alert.data}
    )
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "antiphon",
        "webhook-id": alert_id,
        "webhook-timestamp": str(now),
        "webhook-signature": signature(target.secret, alert_id, now, body),
    }
    try:
        answer = requests.post(target.url, body, headers=headers, timeout=_TIMEOUT, allow_redirects=False)
    except requests.RequestException as error:
        return type(error).__name__
    return None if 200 <= answer.status_code < 300 else f"status {answer.status_code}"


def signature(secret: str, alert_id: str, timestamp: int, body: bytes) -> str:
    """`v1,` and the HMAC-SHA256 of id, time and body in base64 (Standard Webhooks)."""
    signed = b".".join((alert_id.encode(), str(timestamp).encode(), body))
    return f"v1,{base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()}"


def _key(secret: str) -> bytes:
    if secret.startswith(_ENCODED):
        try:
            return base64.b64decode(secret.removeprefix(_ENCODED), validate=True)
        except binascii.Error:
            pass
    return secret.encode()
