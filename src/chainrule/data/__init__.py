"""Data sets and how they come in batches; nothing is downloaded unless it is asked for."""

from chainrule.data.cifar import cifar10
from chainrule.data.dataset import Dataset
from chainrule.data.digits import digits
from chainrule.data.idx import read_idx
from chainrule.data.loader import DataLoader
from chainrule.data.mnist import fashion_mnist, mnist

__all__ = ["DataLoader", "Dataset", "cifar10", "digits", "fashion_mnist", "mnist", "read_idx"]
