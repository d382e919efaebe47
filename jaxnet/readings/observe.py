"""What happens inside a network while it trains, layer by layer, measured in the compiled step itself.

One backward, many readings: every leaf is replaced by one whose backward returns statistics beside its gradient, and
the combinators, which only collect, bring them all together, also out of the scan of `repeat`.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Integer
from optax import GradientTransformation

from jaxnet.layers import Composite, Layer, Reading, map_layers, run
from jaxnet.losses import Loss
from jaxnet.network import cost_and_gradient
from jaxnet.page import page
from jaxnet.step import TrainState, descend, step_key

# A unit is saturated by an example where the slope |g'(z)| is below this share of the largest that g has anywhere.
SATURATED = 0.1


class Diagnostics(NamedTuple):
    """What one step measured, for each of the network's L leaves in the order of `layer_names`.

    Where a number has no meaning it is NaN: norms of a leaf without parameters, slopes of one that does not act element
    by element, a = g(z).

    Attributes:
        step: finished steps before this one; -1 where a step was not observed, and nothing else holds there.
        cost: J of the step's mini-batch.
        mean: of the leaf's outputs, over examples and units. It is finite if and only if they all are.
        variance: of the same numbers.
        saturated: the share of all (example, unit) whose |g'(z)| is below a tenth of g's largest: |z| > 3.6 for the
            sigmoid, |z| > 1.8 for tanh, z <= 0 for ReLU and leaky ReLU.
        dead: the share of units whose g'(z) is 0 on every example of the batch: they pass no gradient on.
        gradient_norm: ‖∂J/∂params‖.
        parameter_norm: ‖params‖ before the update.
        update_norm: ‖update‖, what the optimizer adds to the parameters.
    """

    step: Integer[Array | np.ndarray, "..."]
    cost: Float[Array | np.ndarray, "..."]
    mean: Float[Array | np.ndarray, "... L"]
    variance: Float[Array | np.ndarray, "... L"]
    saturated: Float[Array | np.ndarray, "... L"]
    dead: Float[Array | np.ndarray, "... L"]
    gradient_norm: Float[Array | np.ndarray, "... L"]
    parameter_norm: Float[Array | np.ndarray, "... L"]
    update_norm: Float[Array | np.ndarray, "... L"]

    @property
    def update_ratio(self) -> Float[Array | np.ndarray, "... L"]:
        """‖update‖/‖params‖: how far one step moves a layer, relative to where it is."""
        return self.update_norm / self.parameter_norm

    def _repr_html_(self) -> str:
        """The newest row for a notebook, a line for each layer."""
        quantities = self._fields[2:]
        if np.ndim(self.step) > 1 or not np.size(self.step):
            return page(f"Diagnostics of shape {np.shape(self.step)}", [quantities])
        newest = [np.atleast_2d(getattr(self, name))[-1] for name in quantities]
        rows = [(f"[{i}]", *(f"{value:.3g}" for value in row)) for i, row in enumerate(zip(*newest, strict=True))]
        headline = f"step {np.ravel(self.step)[-1]}, cost {np.ravel(self.cost)[-1]:.4g}"
        return page(headline, [("layer", *(name.replace("_", " ") for name in quantities)), *rows])


class _Observed(NamedTuple):
    """What the backward of an observed leaf returns instead of the gradient alone."""

    gradient: Any
    mean: Array
    variance: Array
    saturated: Array
    dead: Array


def _is_observed(node: Any) -> bool:
    return isinstance(node, _Observed)


# In each leaf ---------------------------------------------------------------------------------------------------------


def _accurate(x: Array) -> Array:
    """x in float32 at least, for sums of many terms."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def _mean(arrays: list[Array]) -> Array:
    """The mean of all numbers as Σ x/n: divided first, so that the sum of finite numbers cannot overflow."""
    n = max(1, sum(x.size for x in arrays))
    return functools.reduce(jnp.add, [(x / n).sum() for x in arrays])


@functools.cache
def _largest_slope(leaf: Layer) -> float:
    """max |g'(z)| over a fine grid of z, 0 among them."""
    with jax.ensure_compile_time_eval():
        _, cache = leaf.forward((), jnp.linspace(-16, 16, 1025))
        slope = leaf.slope(cache)
        assert slope is not None
        return float(jnp.abs(slope).max())


@dataclass(frozen=True)
class _Observing(Reading):
    """The leaf whose backward returns statistics beside the gradient; its forward caches those of the outputs."""

    def forward(self, params: Any, inputs: Any, *, key: Array | None = None) -> tuple[Any, Any]:
        """The leaf's, and the mean and the variance of its outputs."""
        outputs, cache = run(self.layer, params, inputs, key)
        arrays = [_accurate(a) for a in jax.tree.leaves(outputs)]
        mean = _mean(arrays)
        return outputs, (cache, mean, _mean([jnp.square(a - mean) for a in arrays]))

    def backward(self, params: Any, cache: Any, grad_outputs: Any) -> tuple[Any, _Observed]:
        """The leaf's, and what its slope tells, if it has one."""
        cache, mean, variance = cache
        grad_inputs, gradient = self.layer.backward(params, cache, grad_outputs)
        saturated = dead = jnp.full_like(mean, jnp.nan)
        slope = self.layer.slope(cache)
        if slope is not None:
            slope = jnp.abs(slope)
            saturated = (slope < SATURATED * _largest_slope(self.layer)).mean(dtype=mean.dtype)
            dead = (slope.max(tuple(range(slope.ndim - 1))) == 0).mean(dtype=mean.dtype)
        return grad_inputs, _Observed(gradient, mean, variance, saturated, dead)


# In layer order -------------------------------------------------------------------------------------------------------


class _Visit(NamedTuple):
    """A leaf as the forward pass comes to it: its number among those as they are written, and which of its copies."""

    leaf: int
    copy: tuple[int, ...]


def _visits(network: Layer, first: int = 0) -> list[_Visit]:
    """The leaves in the order in which the forward pass comes to them, the copies of repeated ones one by one."""
    if not isinstance(network, Composite):
        return [_Visit(first, ())]
    visits: list[_Visit] = []
    for part in network.parts:
        visits += _visits(part, first)
        first += len(_leaves(part))
    if network.stacked is None:
        return visits
    return [_Visit(leaf, (i, *copy)) for i in range(network.stacked) for leaf, copy in visits]


def _leaves(network: Layer) -> list[Layer]:
    """The leaves as they are written: each once, however often it is repeated."""
    if not isinstance(network, Composite):
        return [network]
    return [leaf for part in network.parts for leaf in _leaves(part)]


@functools.cache
def _layers(network: Layer) -> tuple[tuple[Layer, ...], np.ndarray]:
    """The leaves in the order of the forward pass, and the index of each in what is recorded.

    What a pass records is stacked where `repeat` stacks it, so that a leaf's copies lie side by side.
    """
    leaves, visits = _leaves(network), _visits(network)
    recorded = sorted(range(len(visits)), key=lambda i: visits[i])
    order = np.empty(len(visits), int)
    order[recorded] = np.arange(len(visits))
    return tuple(leaves[visit.leaf] for visit in visits), order


def layer_names(network: Layer) -> tuple[str, ...]:
    """The names of a network's leaves in the order of the forward pass, numbered: "[0] dense 64→32", "[1] relu", ...

    The copies that `repeat` makes are listed one by one. Without `repeat` or nesting, the number is also the index of
    the leaf's parameters in those of the network.
    """
    layers, _ = _layers(network)
    return tuple(f"[{place}] {layer.name}" for place, layer in enumerate(layers))


# The step -------------------------------------------------------------------------------------------------------------


def _norm(tree: Any, stacked: tuple[int, ...]) -> Array:
    """‖tree‖ over all but the first axes, on which `repeat` stacks its layers; NaN of a tree without arrays.

    Where the sum of squares under- or overflows, and only there, the numbers are scaled by their largest first: the
    norm of a vanishing gradient is not 0, and a norm is finite if and only if the numbers are.
    """
    arrays = [_accurate(leaf.reshape(*stacked, -1)) for leaf in jax.tree.leaves(tree)]
    if not arrays:
        return jnp.full(stacked, jnp.nan)

    def norm(arrays: list[Array]) -> Array:
        # A product of vectors runs on more lanes than a sum of squares: 5% of a whole step on a CPU.
        squares = [jnp.einsum("...i,...i->...", array, array, precision="highest") for array in arrays]
        return jnp.sqrt(functools.reduce(jnp.add, squares))

    def scaled() -> Array:
        largest = functools.reduce(jnp.maximum, [jnp.abs(array).max(-1) for array in arrays])
        scale = jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1)
        return scale * norm([array / scale[..., None] for array in arrays])

    plain = norm(arrays)
    least = (jnp.finfo(plain.dtype).tiny / jnp.finfo(plain.dtype).eps) ** 0.5
    return jax.lax.cond(((plain > least) & (plain < jnp.inf)).all(), lambda: plain, scaled)


def observed_step(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    state: TrainState,
    x: Any,
    y: ArrayLike,
    sample_weight: Array | None = None,
) -> tuple[TrainState, Array, Diagnostics]:
    """One step on one batch, as `train_step` makes it, and what happened in it: (new state, J, diagnostics)."""
    observing = map_layers(_Observing, network)
    key = step_key(network, state)
    cost, observed = cost_and_gradient(observing, loss)(state.params, x, y, key=key, sample_weight=sample_weight)
    leaves, structure = jax.tree.flatten(observed, is_leaf=_is_observed)
    after, updates = descend(optimizer, state, structure.unflatten([leaf.gradient for leaf in leaves]))
    trees = zip(leaves, structure.flatten_up_to(state.params), structure.flatten_up_to(updates), strict=True)
    rows = [
        (*leaf[1:], *(_norm(tree, leaf.mean.shape) for tree in (leaf.gradient, params, update)))
        for leaf, params, update in trees
    ]
    _, order = _layers(network)
    columns = [
        jnp.concatenate([jnp.ravel(entry).astype(_accurate(cost).dtype) for entry in column])[order]
        for column in zip(*rows, strict=True)
    ]
    return after, cost, Diagnostics(state.step, cost, *columns)


# Reading it -----------------------------------------------------------------------------------------------------------


def first_nonfinite(network: Layer, diagnostics: Diagnostics) -> str | None:
    """Where the first number arose that is not finite: the step, the layer, and which quantity of it; None if nowhere.

    Within a step the order is that of the computation: activations from the first layer to the last, the cost,
    gradients of the parameters from the last layer to the first, updates.

    Args:
        network: the network that was observed.
        diagnostics: of one step, or of several on a leading axis.

    Raises:
        ValueError: if the diagnostics are those of another number of layers.
    """
    layers, _ = _layers(network)
    if diagnostics.mean.shape[-1] != len(layers):
        raise ValueError(f"{network.name} has {len(layers)} layers, the diagnostics {diagnostics.mean.shape[-1]}")
    names, every = layer_names(network), range(len(layers))
    trained = [place for place in every if jax.tree.leaves(jax.eval_shape(layers[place].init, jax.random.key(0)))]
    found = [(f"an activation of {names[place]}", diagnostics.mean[..., place]) for place in every]
    found += [("the cost", diagnostics.cost)]
    found += [(f"the gradient of {names[place]}", diagnostics.gradient_norm[..., place]) for place in trained[::-1]]
    found += [(f"the update of {names[place]}", diagnostics.update_norm[..., place]) for place in trained]
    finite = np.isfinite(np.stack([np.atleast_1d(values) for _, values in found], axis=-1))
    if finite.all():
        return None
    row, column = np.argwhere(~finite)[0]
    return f"step {np.atleast_1d(diagnostics.step)[row]}: {found[column][0]} is not finite"
