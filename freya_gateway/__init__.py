"""Freya's gateway: a streaming event gateway with a long memory, on PostgreSQL."""

__version__ = "0.1.0"
