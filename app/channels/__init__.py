"""The channels: which there are, which one next, and one exchange with an upstream."""
