"""The workloads by name, in the order of the table; each is made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable

from workloads import dense, formulas, images, sequences
from workloads.workload import Step, Workload, Wrap

__all__ = ["WORKLOADS", "Step", "Workload", "Wrap"]

_ORDER = (
    *("neuron", "sum1e2", "sum1e6", "sum1e7", "chain", "svm", "mlp64", "mlp512", "cnn", "batchnorm", "alexnet", "lstm", "ntm"),
    *("transformer", "hvp", "jacobian", "wgan", "deep", "deep-recompute"),
)
_ALL = formulas.WORKLOADS | dense.WORKLOADS | images.WORKLOADS | sequences.WORKLOADS

WORKLOADS: dict[str, Callable[[], Workload]] = {name: _ALL[name] for name in _ORDER}
