"""A verdict on optimizers: whether two are the same, and which convention sets them apart."""

from jaxnet.verify.optimizers.adapters import from_step, from_torch
from jaxnet.verify.optimizers.verification import verify_optimizer

__all__ = ["from_step", "from_torch", "verify_optimizer"]
