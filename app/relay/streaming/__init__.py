"""A streamed turn: its events, and the transport that moves their bytes."""
