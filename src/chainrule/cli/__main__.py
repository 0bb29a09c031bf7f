"""``python -m chainrule.cli``, where the command is not on the path."""

from chainrule.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
