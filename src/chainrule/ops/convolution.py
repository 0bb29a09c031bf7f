"""Convolution gates."""

__all__: list[str] = []
