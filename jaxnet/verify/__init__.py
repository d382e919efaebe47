"""A verdict on derivatives written by hand: right or wrong, where, and which mistake was made."""

from jaxnet.verify.gradients import verify_custom_vjp, verify_gradient, verify_vjp
from jaxnet.verify.networks import verify_layer, verify_network
from jaxnet.verify.report import Finding, Report

__all__ = ["Finding", "Report", "verify_custom_vjp", "verify_gradient", "verify_layer", "verify_network", "verify_vjp"]
