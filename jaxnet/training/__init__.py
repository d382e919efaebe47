"""Training: epochs as one compiled scan, runs that lose nothing, and the fronts `fit`, `fit_batches` and `sweep`."""

from jaxnet.step import TrainState, init_state, step_key, train_step
from jaxnet.training.checkpoint import CheckpointError, Checkpoints
from jaxnet.training.epochs import train_epochs
from jaxnet.training.fit import fit
from jaxnet.training.history import History, TrainingError
from jaxnet.training.parallel import (
    all_reduce_step,
    all_reduced_cost_and_gradient,
    data_mesh,
    parallel_step,
    place_batch,
    place_state,
    state_shardings,
)
from jaxnet.training.saving import load_parameters, save_parameters
from jaxnet.training.streaming import fit_batches
from jaxnet.training.sweep import sweep

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "History",
    "TrainState",
    "TrainingError",
    "all_reduce_step",
    "all_reduced_cost_and_gradient",
    "data_mesh",
    "fit",
    "fit_batches",
    "init_state",
    "load_parameters",
    "parallel_step",
    "place_batch",
    "place_state",
    "save_parameters",
    "state_shardings",
    "step_key",
    "sweep",
    "train_epochs",
    "train_step",
]
