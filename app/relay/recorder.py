"""Records one response exactly once, whatever its outcome."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic, time
from typing import Any

import orjson

from app.channels.selection import SelectedChannel
from app.contract.items import Item, bound
from app.contract.outline import outline
from app.contract.records import CHAINABLE, Attempt, Draft, Outcome, Prompt, Token
from app.contract.redaction import redacted_items, without_credentials
from app.contract.response import error_member
from app.contract.token_estimate import estimate_context, estimate_items
from app.contract.turn import Answer, Turn
from app.contract.usage import NOTHING_USED, Usage
from app.errors import ClientGone, EndedElsewhere, GatewayError, InvalidRequest, StoreUnavailable, TooLargeToStore
from app.limits.admission import UNLIMITED_TURN, Admission
from app.relay.inferred_parents import OnOutcome, names_no_history
from app.relay.prompts import Prompts
from app.relay.request_context import ResponseFacts
from app.store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """A response that has ended: the object for the client, and the row."""

    response: dict[str, Any]
    outcome: Outcome


class Recorder:
    """Records one turn: the channels tried, the time of the first byte, and the outcome."""

    def __init__(
        self,
        store: Store,
        turn: Turn,
        token: Token,
        request_id: str,
        facts: ResponseFacts | None = None,
        on_outcome: OnOutcome | None = None,
        prompts: Prompts | None = None,
        client: str = "",
    ) -> None:
        """`facts` gets the outcome for the access log; `on_outcome` is called once the outcome is stored; `prompts`
        makes the digests of what the model was given."""
        self._store = store
        self._on_outcome = on_outcome
        self._prompts = prompts
        self._facts = facts or ResponseFacts()
        self._turn = turn
        self.draft = draft(turn, token, request_id, client)
        self.spent: Usage | None = None
        """What the exchanges have used that have ended, in a turn of several."""
        self.has_family = True
        """Whether the family of the last channel can read all of the answer, in a turn of several exchanges."""
        self.answers_approvals = False
        """Calls may have left for answers to approval requests. A client that repeats these answers after a failure may
        reach another worker, which has to find how the turn ended."""
        self.admission: Admission = UNLIMITED_TURN
        """Ends with the outcome."""
        self._attempts: list[Attempt] = []
        self._started = monotonic()
        self._first_byte_ms: int | None = None
        self._channel: str | None = None
        self._has_row = False
        self._saved = False

    def use_compacted(self, turn: Turn) -> None:
        """Continues with a compacted history. The client's own input is stored unchanged."""
        self._turn = turn

    def begin(self) -> None:
        """Creates the row before the client can learn its id."""
        if self._turn.store:
            self._store.responses.begin(self.draft, self._channel)
            self._has_row = True

    def answered_by(self, channel: str) -> None:
        """Notes in the row which channel answers: at its beginning, or later when another one goes on."""
        if channel != self._channel:
            self._channel = channel
            if self._has_row:
                self._store.responses.note_channel(self.draft.id, channel)

    def add_attempt(self, attempt: Attempt) -> None:
        """Adds an attempt to the row. An upstream's error message may quote credentials, which are never stored, and
        the prompt, which is stored with a stored turn only.
        """
        if attempt.upstream_message is not None:
            message = without_credentials(attempt.upstream_message, self._turn.request) if self._turn.store else None
            attempt = replace(attempt, upstream_message=message)
        self._attempts.append(attempt)

    def first_byte(self) -> None:
        if self._first_byte_ms is None:
            self._first_byte_ms = self._elapsed()

    def finish(self, answer: Answer, selected: SelectedChannel | None) -> dict[str, Any]:
        """Stores the answer. Returns the response object after the commit. Raises StoreUnavailable, EndedElsewhere.

        `selected` is None for an answer that the gateway made itself.
        """
        ended = self.ended(answer, selected)
        self.store(ended)
        return ended.response

    def ended(self, answer: Answer, selected: SelectedChannel | None) -> Ended:
        """The response object and its row, not stored yet."""
        turn = self._turn
        output = redacted_items([*turn.leading_items, *answer.output])
        usage = answer.usage or estimated_usage(turn, answer.output)
        if self.spent is None and selected is not None:
            usage = selected.priced(turn.model, usage)
        usage = usage + turn.compaction_usage if turn.compaction_usage else usage
        echo = turn.echo.with_upstream_defaults(answer.defaults)
        error = self._redacted(answer.error)
        output_types = {item.get("type") for item in output}
        now = int(time())
        response = turn.response(
            answer.status,
            echo,
            output=output,
            usage=usage,
            completed_at=now,
            error=error,
            incomplete_details=answer.incomplete_details,
        )
        return Ended(
            response,
            Outcome(
                status=answer.status,
                completed_at=now,
                output=orjson.dumps(output),
                item_ids=item_ids(output),
                usage=usage,
                error=error,
                incomplete_details=answer.incomplete_details,
                echo=echo.row_fields(),
                channel=selected.channel.name if selected else (turn.compaction or {}).get("channel"),
                family=selected.channel.family if selected and self.has_family else None,
                upstream_model=answer.upstream_model or (selected.model if selected else None),
                upstream_id=answer.upstream_id,
                attempts=tuple(self._attempts),
                opaque=bound({item.get("type") for item in turn.input} | output_types),
                compacted="compaction" in output_types,
                compaction=turn.compaction,
                outline=outline(turn.input, output),
                prompt=self._prompt(output, selected, usage),
                first_byte_ms=self._first_byte_ms,
                total_ms=self._elapsed(),
            ),
        )

    def _prompt(self, output: Sequence[Item], selected: SelectedChannel | None, usage: Usage) -> Prompt | None:
        """Digests of what the model was given. Those of a history that the client sends each turn come later, from the
        thread that looks for its parent."""
        turn, prompts = self._turn, self._prompts
        if prompts is None:
            return None
        prompt = prompts.of(turn, selected.row if selected else None, self._attempts, usage)
        if self._on_outcome is not None and names_no_history(turn.request):
            return prompt
        return prompts.with_items(turn.owner, prompt, turn.input, output)

    def store(self, ended: Ended) -> None:
        """Returns after the commit. Raises StoreUnavailable and EndedElsewhere."""
        if not self._save(ended.outcome):
            raise EndedElsewhere

    def give_up(self, error: GatewayError | ClientGone) -> None:
        """Records a request that ended without an answer: its client left, or it was refused."""
        if isinstance(error, ClientGone):
            self.cancel()
        else:
            self.refuse(error)

    def refuse(self, error: GatewayError) -> None:
        """Records a request that failed before the client learned the response's id: only a row without content."""
        wire = {"code": error.name, "message": error.message}
        outcome = self._failed_outcome("failed", wire, (), None)
        self._facts.record(self.draft, outcome)
        if not isinstance(error, EndedElsewhere if self.answers_approvals else InvalidRequest):
            self._store.responses.note(replace(self.draft, stored=False), outcome)
            self._settle(outcome)
            self._report(outcome)
        self.admission.settle_now(outcome.usage)

    def fail(
        self, error: GatewayError, partial: Sequence[Item] = (), selected: SelectedChannel | None = None
    ) -> dict[str, Any]:
        """Stores a failure and returns the failed response object."""
        wire = {"code": error.name, "message": error.message}
        outcome = self._failed_outcome("failed", wire, partial, selected)
        self._save_failure(error, outcome)
        return self.failed(error, partial, outcome.usage)

    def failed(self, error: GatewayError, partial: Sequence[Item] = (), usage: Usage | None = None) -> dict[str, Any]:
        """The response object of a failure."""
        return self._turn.response("failed", output=partial, usage=usage, error=self._redacted(error_member(error)))

    def cancel(self, partial: Sequence[Item] = (), selected: SelectedChannel | None = None) -> None:
        """Stores the partial output of a client that left. The response cannot be continued."""
        self._save_or_retry(self._failed_outcome("cancelled", None, partial, selected))

    def in_progress_response(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The response object for the head of a stream."""
        return self._turn.response("in_progress", self._turn.echo.with_upstream_defaults(defaults))

    def _redacted(self, error: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The error as it is stored and shown. An upstream's message may quote credentials of the request."""
        if error is None or not isinstance(message := error.get("message"), str):
            return error
        return {**error, "message": without_credentials(message, self._turn.request)}

    def _failed_outcome(
        self, status: str, error: Mapping[str, Any] | None, partial: Sequence[Item], selected: SelectedChannel | None
    ) -> Outcome:
        return Outcome(
            status=status,
            completed_at=int(time()),
            output=orjson.dumps(redacted_items(partial)),
            item_ids=item_ids(partial),
            usage=self._spent(partial, selected),
            error=self._redacted(error),
            channel=selected.channel.name if selected else None,
            family=selected.channel.family if selected else None,
            attempts=tuple(self._attempts),
            outline=outline(self._turn.input, partial),
            first_byte_ms=self._first_byte_ms,
            total_ms=self._elapsed(),
        )

    def _spent(self, partial: Sequence[Item], selected: SelectedChannel | None) -> Usage | None:
        """What a response without a whole answer has used."""
        parts = (self._turn.compaction_usage, self._begun(partial, selected))
        used = [usage for usage in parts if usage is not None]
        return replace(sum(used, NOTHING_USED), estimated=True) if used else None

    def _begun(self, partial: Sequence[Item], selected: SelectedChannel | None) -> Usage | None:
        """What the answer has used so far."""
        if self.spent is not None or not partial:
            return self.spent
        usage = estimated_usage(self._turn, partial)
        return usage if selected is None else selected.priced(self._turn.model, usage)

    def _save(self, outcome: Outcome) -> bool:
        """Stores the outcome. Returns False if the row was ended elsewhere before."""
        self._facts.record(self.draft, outcome)
        if self._saved:
            self.admission.settle(outcome.usage)
            return True
        written = True
        if self._turn.store:
            # Before the row, so that the client's next request finds its place free.
            self.admission.settle(outcome.usage)
            written = self._finish(outcome)
        else:
            # A connection's own store may remember the content. The input is encoded here so that no stream holds it.
            self._store.responses.note(replace(self.draft, input=_input(self._turn)), outcome)
            self._settle(outcome)
            self.admission.settle_now(outcome.usage)
        self._saved = True
        self._report(outcome)
        return written

    def _settle(self, outcome: Outcome) -> None:
        """Waits for a row that other workers have to find: that of a failure, which allows to repeat an answer."""
        if self.answers_approvals and outcome.status not in CHAINABLE:
            # Without the database, a repetition finds nothing either.
            with suppress(StoreUnavailable):
                self._store.tool_calls.settle()

    def _report(self, outcome: Outcome) -> None:
        if self._on_outcome is not None:
            self._on_outcome(outcome)

    def _finish(self, outcome: Outcome) -> bool:
        """Stores the outcome. A response without a usable answer ends without its output if that is too large."""
        try:
            return self._store.responses.finish(self.draft, outcome)
        except TooLargeToStore:
            if outcome.status in CHAINABLE:
                raise
            return self._store.responses.finish(self.draft, replace(outcome, output=b"[]", item_ids=()))

    def _save_failure(self, error: GatewayError, failure: Outcome) -> None:
        if isinstance(error, StoreUnavailable):
            # The store has already timed out once, and the client waits for this error.
            self._save_later(failure)
        else:
            self._save_or_retry(failure)

    def _save_or_retry(self, outcome: Outcome) -> None:
        """Stores an outcome that the client does not wait for. A database error is retried later instead of raised."""
        try:
            self._save(outcome)
        except StoreUnavailable:
            log.warning("database error: response %s is stored as %s by a later retry", self._turn.id, outcome.status)
            self._save_later(outcome)

    def _save_later(self, outcome: Outcome) -> None:
        """Ends the row once the store answers again, with the outcome that the client got."""
        self._facts.record(self.draft, outcome)
        self.admission.settle(outcome.usage)
        self._saved = True
        if self._turn.store:
            self._store.responses.finish_later(self.draft, outcome)
        else:
            self._store.responses.note(self.draft, outcome)

    def _elapsed(self) -> int:
        return round((monotonic() - self._started) * 1000)


def item_ids(items: Sequence[Item]) -> tuple[str, ...]:
    return tuple([item["id"] for item in items if isinstance(item.get("id"), str) and item["id"]])


def draft(turn: Turn, token: Token, request_id: str, client: str) -> Draft:
    """The row of a turn before it is answered."""
    stored = turn.store
    return Draft(
        id=turn.id,
        owner=turn.owner,
        token=token.key,
        model=turn.model,
        created_at=turn.created_at,
        parent=turn.previous_response_id,
        conversation=turn.chain.conversation,
        conversation_position=turn.chain.conversation_position,
        stored=stored,
        streamed=turn.stream,
        background=turn.background,
        request_id=request_id,
        client=client,
        settings=_trimmed(turn.echo.shared_settings()) if stored else b"{}",
        echo=_trimmed(turn.echo.row_fields()) if stored else b"{}",
        input=_trimmed(_input(turn)) if stored else b"[]",
        item_ids=item_ids(turn.input) if stored else (),
    )


def _input(turn: Turn) -> bytes:
    """The turn's own input as it is stored."""
    return orjson.dumps(redacted_items(turn.input))


def _trimmed(data: bytes) -> bytes:
    """A compact copy: orjson's result takes at least 4 KiB, and these bytes live as long as the stream."""
    return bytes(memoryview(data))


def estimated_usage(turn: Turn, output: Sequence[Item]) -> Usage:
    """Usage for an upstream that reported none."""
    tokens = estimate_context(turn.chain, turn.input, turn.echo.shared_settings())
    return Usage(input_tokens=tokens, output_tokens=estimate_items(output), estimated=True)
