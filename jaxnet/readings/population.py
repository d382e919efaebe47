"""Population statistics: what a network that normalizes by its batch uses after training (S14, for hidden layers)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnet.examples import check_batch
from jaxnet.layers import Layer, Reading, map_layers, run


@dataclass(frozen=True, repr=False)
class _AtPopulation(Reading):
    """The leaf that takes its inputs for those of all training data, and whose backward returns what it found."""

    def forward(self, params: Any, inputs: Any, *, key: Array | None = None) -> tuple[Any, Any]:
        """As after training."""
        layer, parameters = self.layer.at_population()
        found = parameters(params, inputs)
        return run(layer, found, inputs)[0], (inputs, found)

    def backward(self, params: Any, cache: Any, grad_outputs: Any) -> tuple[Any, Any]:
        """Zeros for ∂L/∂inputs, which nobody asks for, and the parameters that are used after training."""
        inputs, found = cache
        return jax.tree.map(_zeros, inputs), found


def _zeros(leaf: Array) -> Array | None:
    """In place of a gradient; None by an integer."""
    return jnp.zeros_like(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else None


@partial(jax.jit, static_argnums=0)
def _found(network: Layer, params: Any, x: Any) -> Any:
    reading = map_layers(_AtPopulation, network)
    outputs, cache = run(reading, params, x)
    return reading.backward(params, cache, jax.tree.map(jnp.zeros_like, outputs))[1]


def population_statistics(network: Layer, params: Any, x: Any) -> tuple[Layer, Any]:
    """The network as it is used after training and its parameters, with the statistics of all training inputs.

    A layer that couples examples, as batch norm, normalizes by its batch in training. An example that comes alone is
    normalized by μ and σ² of the training set instead, as inputs are (S14): computed once, at the parameters that were
    trained, and layer by layer, so that each sees what the ones before it make of all examples (Wu and Johnson, 2021,
    "Rethinking 'Batch' in BatchNorm"). So training carries no state, and afterwards

        network, params = population_statistics(network, params, x)

    Args:
        network: as it was trained.
        params: its parameters.
        x: all inputs of the training set, (m, ...).

    Raises:
        ValueError: if a layer couples examples and has no `at_population` of its own, or x is no batch.
    """
    check_batch("population statistics", x)
    network = network.at_inference()
    used = map_layers(lambda layer: layer.at_population()[0], network)
    return used, _found(network, params, x)
