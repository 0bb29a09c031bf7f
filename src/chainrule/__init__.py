"""chainrule: automatic differentiation on computational graphs that can be looked through.

The functions of the array API standard, and the gates of networks, on `Tensor`; PyTorch's handling of
gradients; JAX's transforms. A gate's own file decides what is public, so adding one never edits this.
"""

from chainrule.autodiff import autograd
from chainrule.autodiff.check import gradcheck, gradgradcheck
from chainrule.autodiff.forward import jvp
from chainrule.autodiff.function import Function
from chainrule.autodiff.modular import ComputationalGraph, Gate
from chainrule.autodiff.reverse import grad, value_and_grad, vjp
from chainrule.core import errors
from chainrule.core.interp import enable_grad, no_grad
from chainrule.ops import linalg, random
from chainrule.ops.arithmetic import *
from chainrule.ops.composite import *
from chainrule.ops.contraction import *
from chainrule.ops.control import *
from chainrule.ops.convolution import *
from chainrule.ops.creation import *
from chainrule.ops.cross_entropy import *
from chainrule.ops.gathering import *
from chainrule.ops.indexing import *
from chainrule.ops.joining import *
from chainrule.ops.logic import *
from chainrule.ops.movement import *
from chainrule.ops.pooling import *
from chainrule.ops.product import *
from chainrule.ops.reduction import *
from chainrule.ops.repetition import *
from chainrule.ops.scattering import *
from chainrule.ops.structure import *
from chainrule.ops.transcendental import *
from chainrule.tensor import Tensor
