"""chainrule: automatic differentiation on computational graphs that can be looked through.

The functions of the array API standard, and the gates of networks, on `Tensor`; PyTorch's handling of
gradients; JAX's transforms. A gate's own file decides what is public, so adding one never edits this. The compiler and
the floors of networks load when they are first named.
"""

from functools import partial as _partial
from importlib import import_module as _import_module
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from chainrule.autodiff import autograd as autograd
from chainrule.autodiff import symbolic as symbolic
from chainrule.autodiff.check import gradcheck as gradcheck
from chainrule.autodiff.check import gradgradcheck as gradgradcheck
from chainrule.autodiff.checkpoint import checkpoint as checkpoint
from chainrule.autodiff.coloring import Coloring as Coloring
from chainrule.autodiff.coloring import color as color
from chainrule.autodiff.forward import jvp as jvp
from chainrule.autodiff.function import Function as Function
from chainrule.autodiff.jacobian import hessian as hessian
from chainrule.autodiff.jacobian import hvp as hvp
from chainrule.autodiff.jacobian import jacobian as jacobian
from chainrule.autodiff.linearize import linearize as linearize
from chainrule.autodiff.modular import ComputationalGraph as ComputationalGraph
from chainrule.autodiff.modular import Gate as Gate
from chainrule.autodiff.reverse import grad as grad
from chainrule.autodiff.reverse import value_and_grad as value_and_grad
from chainrule.autodiff.reverse import vjp as vjp
from chainrule.autodiff.sparse import SparsePlan as SparsePlan
from chainrule.autodiff.sparse import sparse_hessian as sparse_hessian
from chainrule.autodiff.sparse import sparse_jacobian as sparse_jacobian
from chainrule.autodiff.sparsity import hessian_sparsity as hessian_sparsity
from chainrule.autodiff.sparsity import jacobian_sparsity as jacobian_sparsity
from chainrule.autodiff.vmap import vmap as vmap
from chainrule.core import errors as errors
from chainrule.core.interp import enable_grad as enable_grad
from chainrule.core.interp import no_grad as no_grad
from chainrule.core.primitive import functions as _functions
from chainrule.graph.control import *
from chainrule.graph.ir import Graph as Graph
from chainrule.graph.loops import *
from chainrule.graph.scan import *
from chainrule.graph.trace import trace as trace
from chainrule.ops import linalg as linalg
from chainrule.ops import random as random
from chainrule.ops.activation import *
from chainrule.ops.arithmetic import *
from chainrule.ops.complex_parts import *
from chainrule.ops.composite import *
from chainrule.ops.contraction import *
from chainrule.ops.convolution import *
from chainrule.ops.creation import *
from chainrule.ops.cross_entropy import *
from chainrule.ops.cumulative import *
from chainrule.ops.discrete import *
from chainrule.ops.dtypes import *
from chainrule.ops.error_function import *
from chainrule.ops.filled import *
from chainrule.ops.gathering import *
from chainrule.ops.generator import manual_seed as manual_seed
from chainrule.ops.indexing import *
from chainrule.ops.joining import *
from chainrule.ops.linear_units import *
from chainrule.ops.logic import *
from chainrule.ops.movement import *
from chainrule.ops.namespace import *
from chainrule.ops.norms import *
from chainrule.ops.pooling import *
from chainrule.ops.product import *
from chainrule.ops.reduction import *
from chainrule.ops.repetition import *
from chainrule.ops.rounding import *
from chainrule.ops.scattering import *
from chainrule.ops.selection import *
from chainrule.ops.sets import *
from chainrule.ops.shifting import *
from chainrule.ops.sorting import *
from chainrule.ops.statistics import *
from chainrule.ops.structure import *
from chainrule.ops.transcendental import *
from chainrule.tensor import Tensor as Tensor

_NAMESPACES = ("autograd", "errors", "linalg", "random")
_LATER = ("data", "models", "nn", "optim", "training")
_FOUND_LATER = {
    "compile": "chainrule.compiler.jit",
    "detect_anomaly": "chainrule.view.anomaly",
    "draw": "chainrule.view.draw",
    "explain": "chainrule.view.explain",
    "explore": "chainrule.view.explorer.page",
    "profile": "chainrule.compiler.profile",
    "source": "chainrule.view.source",
}
_OUTSIDE = (*_NAMESPACES, *_LATER, *_FOUND_LATER)

if _TYPE_CHECKING:
    from chainrule import data as data
    from chainrule import models as models
    from chainrule import nn as nn
    from chainrule import optim as optim
    from chainrule import training as training
    from chainrule.compiler.jit import compile as compile
    from chainrule.compiler.profile import profile as profile
    from chainrule.view.anomaly import detect_anomaly as detect_anomaly
    from chainrule.view.draw import draw as draw
    from chainrule.view.explain import explain as explain
    from chainrule.view.explorer.page import explore as explore
    from chainrule.view.source import source as source
else:

    def __getattr__(name: str) -> _Any:
        if name in _FOUND_LATER:
            globals()[name] = found = getattr(_import_module(_FOUND_LATER[name]), name)
            return found
        if name in _LATER:
            return _import_module(f"chainrule.{name}")
        raise AttributeError(f"module 'chainrule' has no attribute {name!r}")

    def _late(name: str, /, *args: _Any, **options: _Any) -> _Any:
        return __getattr__(name)(*args, **options)

    # Lower floors name public functions without importing them; these load when they are called.
    vars(_functions).update({name: _partial(_late, name) for name in _FOUND_LATER})

    def __dir__() -> list[str]:
        return __all__

    # The standard's own names have underscores around them; of the package's modules only some are namespaces.
    __all__ = [  # pyright: ignore[reportUnsupportedDunderAll] - it follows from what the files of the gates make public
        name
        for name in sorted({*globals(), *_OUTSIDE})
        if name in _OUTSIDE or name.startswith("__array_") or not (name.startswith("_") or isinstance(globals()[name], _ModuleType))
    ]
