"""Compaction: the plan, the summary or native pass, and the sealed item."""
