"""Indexing gates."""

__all__: list[str] = []
