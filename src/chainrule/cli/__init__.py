"""The command ``chainrule``: train networks on real data, see how good they are, and use them."""

from chainrule.cli.command import main

__all__ = ["main"]
