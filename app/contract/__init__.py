"""The Responses API as values: items, responses, turns, usage, records. No I/O."""
