"""The update inside the backward pass: each layer is updated while δ flows back through it.

The gradient of the whole network never exists, and `repeat` writes new parameters and slots over the old: one pass over
memory less, and no second copy of the parameters. It takes an optimizer that treats every number by itself; one that
looks at the whole gradient first, to clip its norm for instance, has to wait for all of it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from optax import GradientTransformation, apply_updates

from jaxnet.layers import Layer, map_layers
from jaxnet.losses import Loss
from jaxnet.network import cost_and_gradient
from jaxnet.optimizers.transformation import is_elementwise
from jaxnet.step import TrainState, train_step


class Trained(NamedTuple):
    """What the parameters of an updating leaf are: those of the leaf, and all that their update needs."""

    params: Any
    opt_state: Any
    optimizer: GradientTransformation


@functools.cache
def updating(leaf: Layer) -> Layer:
    """The leaf whose backward returns its `Trained` parameters after the update, instead of their gradient.

    A leaf without parameters stays as it is.
    """

    def forward(trained: Any, inputs: Array) -> tuple[Array, Any]:
        return leaf.forward(trained.params if isinstance(trained, Trained) else trained, inputs)

    def backward(trained: Any, cache: Any, delta: Array) -> tuple[Array, Any]:
        if not isinstance(trained, Trained):
            return leaf.backward(trained, cache, delta)
        params, opt_state, optimizer = trained
        grad_inputs, gradient = leaf.backward(params, cache, delta)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return grad_inputs, Trained(apply_updates(params, updates), opt_state, optimizer)

    return leaf._replace(forward=forward, backward=backward, updates=True)


def updating_step(
    network: Layer, loss: Loss, optimizer: GradientTransformation, state: TrainState, x: Array, y: Array
) -> tuple[TrainState, Array]:
    """`train_step` with the update inside the backward pass: the same new state and J, but for rounding.

    Raises:
        ValueError: for an optimizer that is none of `jaxnet.optimizers`, or one with a mask: what it does to a layer
            may depend on the others.
    """
    if not is_elementwise(optimizer):
        raise ValueError("updating inside the backward pass needs an optimizer of jaxnet.optimizers without a mask")
    if not jax.tree.leaves(state.params):  # no leaf that would take the optimizer's count along
        return train_step(network, loss, optimizer, state, x, y)
    leaves = _Leaves(network)
    trained = leaves.join(optimizer, state.params, state.opt_state)
    cost, trained = cost_and_gradient(map_layers(updating, network), loss)(trained, x, y)
    params, opt_state = leaves.split(trained, state.opt_state)
    return TrainState(params, opt_state, state.key, state.step + 1), cost


def fastest_step(network: Layer, optimizer: GradientTransformation) -> Any:
    """`updating_step` where it can be used and saves something, in networks with `repeat`, else `train_step`."""
    repeated = any(leaf.place.shape and jax.tree.leaves(leaf.params) for leaf in _Leaves(network).leaves)
    return updating_step if repeated and is_elementwise(optimizer) else train_step


class _Leaf(NamedTuple):
    """The parameters of one leaf, and a number for each of its copies: `place` has the axes that `repeat` stacks."""

    params: Any
    place: Any


@functools.cache
def _marking(leaf: Layer) -> Layer:
    return leaf._replace(init=lambda key: _Leaf(leaf.init(key), jnp.zeros([])))


class _Leaves:
    """Where a network's parameters divide into those of its leaves, and how an optimizer's state divides with them."""

    def __init__(self, network: Layer) -> None:
        marked = jax.eval_shape(map_layers(_marking, network).init, jax.random.key(0))
        self.leaves, self.structure = jax.tree.flatten(marked, is_leaf=lambda node: isinstance(node, _Leaf))

    def join(self, optimizer: GradientTransformation, params: Any, opt_state: Any) -> Any:
        """The network's `Trained` parameters; what all leaves share is repeated for every copy of a layer."""
        entries, shape_of_state = self._entries(params, opt_state)
        columns = [self.structure.flatten_up_to(entry) if slot else None for entry, slot in entries]

        def trained(i: int, params: Any) -> Any:
            if not jax.tree.leaves(params):
                return params
            stacked = self.leaves[i].place.shape
            own = [
                _stacked(entry, stacked) if column is None else column[i]
                for (entry, _), column in zip(entries, columns, strict=True)
            ]
            return Trained(params, shape_of_state.unflatten(own), _stacked(optimizer, stacked))

        every = self.structure.flatten_up_to(params)
        return self.structure.unflatten([trained(i, params) for i, params in enumerate(every)])

    def split(self, trained: Any, opt_state: Any) -> tuple[Any, Any]:
        """The parameters, and the optimizer's state in the structure of `opt_state`."""
        every = self.structure.flatten_up_to(trained)
        params = self.structure.unflatten([leaf.params if isinstance(leaf, Trained) else leaf for leaf in every])
        entries, shape_of_state = self._entries(params, opt_state)
        own = [
            leaf if not isinstance(leaf, Trained) else shape_of_state.flatten_up_to(leaf.opt_state) for leaf in every
        ]
        first = next(entries for entries in own if isinstance(entries, list))

        def entry(i: int, slot: bool) -> Any:
            if not slot:
                return first[i].reshape(-1)[0]
            return self.structure.unflatten([of[i] if isinstance(of, list) else of for of in own])

        return params, shape_of_state.unflatten([entry(i, slot) for i, (_, slot) in enumerate(entries)])

    def _entries(self, params: Any, opt_state: Any) -> tuple[list[tuple[Any, bool]], Any]:
        """The entries of an optimizer's state, and of each whether it is a slot: a tree of the parameters' shapes."""

        def is_slot(entry: Any) -> bool:
            if jax.tree.structure(entry) != jax.tree.structure(params):
                return False
            pairs = zip(jax.tree.leaves(entry), jax.tree.leaves(params), strict=True)
            return all(a.shape == b.shape and jnp.issubdtype(a.dtype, jnp.floating) for a, b in pairs)

        entries, structure = jax.tree.flatten(opt_state, is_leaf=is_slot)
        return [(entry, is_slot(entry)) for entry in entries], structure


def _stacked(tree: Any, shape: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*shape, *jnp.shape(leaf))), tree)
