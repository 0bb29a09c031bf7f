"""Logic gates."""

__all__: list[str] = []
