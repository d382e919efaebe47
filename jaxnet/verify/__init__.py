"""A verdict on derivatives written by hand: right or wrong, where, and which mistake was made."""

from jaxnet.verify.doors.gradients import verify_custom_vjp, verify_gradient, verify_vjp
from jaxnet.verify.doors.networks import verify_layer, verify_network
from jaxnet.verify.optimizers import from_step, from_torch, verify_optimizer
from jaxnet.verify.report import Finding, Report

__all__ = [
    "Finding",
    "Report",
    "from_step",
    "from_torch",
    "verify_custom_vjp",
    "verify_gradient",
    "verify_layer",
    "verify_network",
    "verify_optimizer",
    "verify_vjp",
]
