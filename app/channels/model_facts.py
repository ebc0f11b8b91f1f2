"""The facts about a model by its public name: the table's word first, then what the upstreams that serve it list, and
the windows that their refusals have named.
"""

from __future__ import annotations

from dataclasses import replace

from app.channels.selection import Channels
from app.channels.upstream_lists import UpstreamLists
from app.contract.channel import Channel
from app.contract.model_facts import ModelFacts, common


class KnownFacts:
    def __init__(self, channels: Channels, lists: UpstreamLists) -> None:
        self._channels = channels
        self._lists = lists

    def facts(self, model: str) -> ModelFacts:
        """Never waits. Facts that only an upstream's list tells are None until the list was fetched; this call starts
        the fetch. Of several channels, what holds for each of them."""
        table = self._channels.table
        stated = table.facts(model)
        return stated.or_else(common(self._listed(channel, model) for channel in table.serving(model)))

    def compacts(self, model: str) -> bool:
        """Whether the table has the gateway compact histories of this model."""
        table = self._channels.table
        return table.compacts and table.facts(model).compact_at is not None

    def compaction_threshold(self, model: str) -> int | None:
        """Tokens of context at which a history of this model is compacted: `compact_at`, a share of its window. None
        without that key, or while nothing tells the window."""
        if not self.compacts(model):
            return None
        facts = self.facts(model)
        if facts.compact_at is None or facts.context_window is None:
            return None
        return int(facts.context_window * facts.compact_at)

    def pass_window(self, model: str) -> int | None:
        """Tokens that a pass over a history may have: the model's window, or less where refusals without a number have
        shown that it is smaller. None while nothing tells."""
        windows = [self.facts(model).context_window]
        for channel in self._channels.table.serving(model):
            upstream_model = channel.upstream_model(model) or model
            windows.append(self._channels.remedies.row(channel, upstream_model).guessed_window)
        return min((window for window in windows if window is not None), default=None)

    def states_window(self, model: str) -> bool:
        """Whether the table states the window, so that nothing is learnt about it."""
        return self._channels.table.facts(model).context_window is not None

    def _listed(self, channel: Channel, model: str) -> ModelFacts:
        upstream_model = channel.upstream_model(model) or model
        facts = self._lists.of(channel).facts(upstream_model)
        learnt = self._channels.remedies.row(channel, upstream_model).learnt_window
        if learnt is not None:
            facts = replace(facts, context_window=min(learnt, facts.context_window or learnt))
        # A model with a name of ours is not shown under the upstream's.
        return facts if upstream_model == model else replace(facts, display_name=None)
