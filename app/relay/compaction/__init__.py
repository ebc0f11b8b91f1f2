"""Compaction: what is kept, who makes the summary, and the sealed item."""
