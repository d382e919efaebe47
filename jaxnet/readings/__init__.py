"""What one backward pass can tell beside the gradient: every leaf is replaced by one that returns something else."""

from jaxnet.readings.observe import Diagnostics, first_nonfinite, layer_names, observed_step
from jaxnet.readings.per_example import (
    NoiseScale,
    gradient_noise_scale,
    per_example_gradient_norms,
    per_example_gradients,
)
from jaxnet.readings.population import population_statistics
from jaxnet.readings.precision import in_precision
from jaxnet.readings.update import updating, updating_step

__all__ = [
    "Diagnostics",
    "NoiseScale",
    "first_nonfinite",
    "gradient_noise_scale",
    "in_precision",
    "layer_names",
    "observed_step",
    "per_example_gradient_norms",
    "per_example_gradients",
    "population_statistics",
    "updating",
    "updating_step",
]
