"""Named networks: a function for each, which returns a layer ready to be trained.

Nothing here trains; `chainrule.training.fit`, the command ``chainrule train`` and the programs in ``examples/`` do.
"""

from chainrule.nn.layer import Layer
from chainrule.nn.serial import CLASSES

__all__: list[str] = []

_LAYERS: tuple[type[Layer], ...] = ()
CLASSES.update({layer.__name__: layer for layer in _LAYERS})
