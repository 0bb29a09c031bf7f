"""Data sets and how they come in batches; nothing is downloaded."""

from chainrule.data.dataset import Dataset
from chainrule.data.digits import digits
from chainrule.data.idx import read_idx
from chainrule.data.loader import DataLoader
from chainrule.data.mnist import mnist

__all__ = ["DataLoader", "Dataset", "digits", "mnist", "read_idx"]
