"""Records a passthrough request and its outcome: owner, model, channel, tokens and times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic, time
from typing import Any

from app import ids
from app.channels.selection import SelectedChannel
from app.contract.records import Attempt, Draft, Outcome, Token
from app.contract.token_estimate import estimate_items, estimate_length
from app.contract.usage import Usage
from app.errors import ClientGone, GatewayError, InvalidRequest
from app.formats import PassthroughEndpoint, PassthroughSummary
from app.limits.admission import UNLIMITED_TURN, Admission
from app.relay.request_context import RequestContext
from app.store.store import Store


class PassthroughRecorder:
    """Follows one request and records its first outcome."""

    def __init__(
        self,
        store: Store,
        endpoint: PassthroughEndpoint,
        token: Token,
        request: Mapping[str, Any],
        context: RequestContext,
    ) -> None:
        self._store = store
        self._facts = context.facts
        self._request = request
        self._draft = Draft(
            id=ids.new(endpoint.id_prefix),
            owner=token.owner,
            token=token.key,
            model=request["model"],
            created_at=int(time()),
            stored=False,
            streamed=bool(request.get("stream")),
            request_id=context.request_id,
            client=context.client,
        )
        self.admission: Admission = UNLIMITED_TURN
        """Ends with the outcome."""
        self._attempts: list[Attempt] = []
        self._started = monotonic()
        self._first_byte_ms: int | None = None
        self._ended = False

    @contextmanager
    def recorded_failures(self) -> Iterator[None]:
        """Records a failure before the first byte, except for an invalid request."""
        failed = True
        try:
            yield
            failed = False
        except InvalidRequest:
            raise
        except GatewayError as error:
            self.fail(error)
            raise
        except ClientGone:
            self.client_left()
            raise
        finally:
            if failed:
                self.admission.settle_now(None)

    def add_attempt(self, attempt: Attempt) -> None:
        """The upstream's error message may quote the prompt, so it is not stored."""
        self._attempts.append(replace(attempt, upstream_message=None))

    def first_byte(self) -> None:
        self._first_byte_ms = _since(self._started)

    def finish(self, selected: SelectedChannel, summary: PassthroughSummary) -> None:
        self._end(summary.status, selected, summary)

    def fail(
        self, error: GatewayError, selected: SelectedChannel | None = None, summary: PassthroughSummary | None = None
    ) -> None:
        wire = {"code": error.name, "message": error.message}
        self._end("failed", selected, summary, wire)

    def client_left(self, selected: SelectedChannel | None = None, summary: PassthroughSummary | None = None) -> None:
        """Records that the client left. A finished answer keeps its status: a client may hang up before [DONE]."""
        finished = summary is not None and summary.finished
        self._end(summary.status if summary is not None and finished else "cancelled", selected, summary)

    def _end(
        self,
        status: str,
        selected: SelectedChannel | None,
        summary: PassthroughSummary | None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        if self._ended:
            return
        self._ended = True
        outcome = Outcome(
            status=status,
            completed_at=int(time()),
            usage=self._usage(summary, selected) if summary else None,
            error=error,
            channel=selected.channel.name if selected else None,
            upstream_model=(summary.model if summary else None) or (selected.model if selected else None),
            upstream_id=summary.id if summary else None,
            attempts=tuple(self._attempts),
            first_byte_ms=self._first_byte_ms,
            total_ms=_since(self._started),
        )
        self._facts.record(self._draft, outcome)
        self._store.responses.note(self._draft, outcome)
        self.admission.settle_now(outcome.usage)

    def _usage(self, summary: PassthroughSummary, selected: SelectedChannel | None) -> Usage:
        usage = summary.usage or Usage(
            input_tokens=estimate_items([self._request]),
            output_tokens=estimate_length(summary.text_length),
            estimated=True,
        )
        return usage if selected is None else selected.priced(self._draft.model, usage)


def _since(start: float) -> int:
    return round((monotonic() - start) * 1000)
