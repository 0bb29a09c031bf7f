"""Data sets and how they come in batches; nothing is downloaded unless it is asked for."""

from chainrule.data import transforms
from chainrule.data.cifar import cifar10
from chainrule.data.dataset import Dataset
from chainrule.data.digits import digits
from chainrule.data.idx import read_idx
from chainrule.data.loader import DataLoader
from chainrule.data.mnist import fashion_mnist, mnist
from chainrule.data.synthetic import copy_task, eight_gaussians, linear, moons, paw, spirals, xor
from chainrule.data.table import csv
from chainrule.data.text import Characters, TextDataset, python_topics, text

__all__ = [
    "Characters",
    "DataLoader",
    "Dataset",
    "TextDataset",
    "cifar10",
    "copy_task",
    "csv",
    "digits",
    "eight_gaussians",
    "fashion_mnist",
    "linear",
    "mnist",
    "moons",
    "paw",
    "python_topics",
    "read_idx",
    "spirals",
    "text",
    "transforms",
    "xor",
]
