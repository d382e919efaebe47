"""Neural networks as pure JAX functions whose gradients are derived by hand, proved right, and run fast.

Here is what a first program needs:

    networks     mlp, dense, elementwise, serial, repeat, residual, concatenate; Layer, for one of your own
    activations  relu, gelu, sigmoid, tanh
    losses       softmax_cross_entropy, binary_cross_entropy, squared_error
    functions    cost, cost_and_gradient, predict, is_correct, population_statistics
    optimizers   adam, gradient_descent; optimizer_of, for anybody's
    data         fit_standardization, standardize
    training     fit, fit_batches, sweep, init_state, TrainingError, save_parameters, load_parameters
    devices      data_mesh, parallel_step, place_batch, place_state
    inside       observed_step, layer_names, first_nonfinite, gradient_noise_scale
    proof        verify_gradient, verify_vjp, verify_custom_vjp, verify_layer, verify_network, verify_optimizer,
                 from_step, from_torch, as_custom_vjp

`help` explains each. The rest is in jaxnet.activations, jaxnet.initializers, jaxnet.losses, jaxnet.layers,
jaxnet.optimizers, jaxnet.preprocessing, jaxnet.readings, jaxnet.training and jaxnet.verify.
"""

import importlib as _importlib
import warnings as _warnings
from types import ModuleType as _ModuleType
from typing import Any as _Any

from jaxnet.activations import gelu as gelu
from jaxnet.activations import relu as relu
from jaxnet.activations import sigmoid as sigmoid
from jaxnet.activations import tanh as tanh
from jaxnet.interop import as_custom_vjp as as_custom_vjp
from jaxnet.layers import Layer as Layer
from jaxnet.layers import concatenate as concatenate
from jaxnet.layers import dense as dense
from jaxnet.layers import elementwise as elementwise
from jaxnet.layers import repeat as repeat
from jaxnet.layers import residual as residual
from jaxnet.layers import serial as serial
from jaxnet.losses import binary_cross_entropy as binary_cross_entropy
from jaxnet.losses import softmax_cross_entropy as softmax_cross_entropy
from jaxnet.losses import squared_error as squared_error
from jaxnet.network import cost as cost
from jaxnet.network import cost_and_gradient as cost_and_gradient
from jaxnet.network import is_correct as is_correct
from jaxnet.network import mlp as mlp
from jaxnet.network import predict as predict
from jaxnet.optimizers import adam as adam
from jaxnet.optimizers import gradient_descent as gradient_descent
from jaxnet.optimizers import optimizer_of as optimizer_of
from jaxnet.preprocessing import fit_standardization as fit_standardization
from jaxnet.preprocessing import standardize as standardize
from jaxnet.readings import first_nonfinite as first_nonfinite
from jaxnet.readings import gradient_noise_scale as gradient_noise_scale
from jaxnet.readings import layer_names as layer_names
from jaxnet.readings import observed_step as observed_step
from jaxnet.readings import population_statistics as population_statistics
from jaxnet.training import TrainingError as TrainingError
from jaxnet.training import data_mesh as data_mesh
from jaxnet.training import fit as fit
from jaxnet.training import fit_batches as fit_batches
from jaxnet.training import init_state as init_state
from jaxnet.training import load_parameters as load_parameters
from jaxnet.training import parallel_step as parallel_step
from jaxnet.training import place_batch as place_batch
from jaxnet.training import place_state as place_state
from jaxnet.training import save_parameters as save_parameters
from jaxnet.training import sweep as sweep
from jaxnet.verify import from_step as from_step
from jaxnet.verify import from_torch as from_torch
from jaxnet.verify import verify_custom_vjp as verify_custom_vjp
from jaxnet.verify import verify_gradient as verify_gradient
from jaxnet.verify import verify_layer as verify_layer
from jaxnet.verify import verify_network as verify_network
from jaxnet.verify import verify_optimizer as verify_optimizer
from jaxnet.verify import verify_vjp as verify_vjp

__version__ = "0.2.0"
_NAMES = sorted(name for name in globals() if not name.startswith("_") and not isinstance(globals()[name], _ModuleType))
_ROOMS = (
    "activations", "initializers", "losses", "layers", "optimizers", "preprocessing", "readings", "training", "verify",
)  # fmt: skip


def __dir__() -> list[str]:
    """The names above, and the packages and modules where the rest is."""
    return [*_NAMES, *_ROOMS, "__version__"]


def __getattr__(name: str) -> _Any:
    """Names that stood here in 0.1, with a warning that says where they are."""
    for room in () if name.startswith("_") else _ROOMS:
        found = getattr(_importlib.import_module(f"jaxnet.{room}"), name, None)
        if getattr(found, "__module__", "").startswith("jaxnet."):
            message = f"jaxnet.{name} is now jaxnet.{room}.{name}, and will be found there alone"
            _warnings.warn(message, DeprecationWarning, stacklevel=2)
            return found
    raise AttributeError(f"module 'jaxnet' has no attribute {name!r}")
