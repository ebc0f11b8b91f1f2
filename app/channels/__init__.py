"""The channels: their table, the selection of one for a request, and one exchange with an upstream."""
