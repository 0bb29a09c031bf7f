"""``python -m chainrule.cli``, where the command is not on the path."""

from chainrule.cli import main

raise SystemExit(main())
