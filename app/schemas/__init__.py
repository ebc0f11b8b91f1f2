"""Schemas of what comes in: requests of clients and rows of the channel table."""
