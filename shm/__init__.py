"""Shared-memory rings, their records, the tokens in them, and the counters page."""
