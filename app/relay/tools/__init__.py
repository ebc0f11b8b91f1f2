"""Turns whose tools the gateway runs: the loop of exchanges and calls, and what each exchange's model reads."""
