"""Prompt caches of model servers: what of a request they compare."""
