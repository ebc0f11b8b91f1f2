"""Limits of tokens: rates, requests at once and budgets, checked where a turn begins and settled where it ends."""
