"""The update inside the backward pass: each layer is updated while δ flows back through it.

The gradient of the whole network never exists, and `repeat` writes new parameters and slots over the old: one pass over
memory less, and no second copy of the parameters. It takes an optimizer that treats every number by itself; one that
looks at the whole gradient first, to clip its norm for instance, has to wait for all of it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from optax import GradientTransformation, apply_updates

from jaxnet.layers import Composite, Layer, Reading, map_layers, pull, run
from jaxnet.layers.combine import Repeat
from jaxnet.losses import Loss
from jaxnet.network import cost_and_gradient
from jaxnet.optimizers.transformation import is_elementwise
from jaxnet.step import TrainState, step_key, train_step


class Trained(NamedTuple):
    """What the parameters of an updating leaf are: those of the leaf, and all that their update needs."""

    params: Any
    opt_state: Any
    optimizer: GradientTransformation


@dataclass(frozen=True)
class _Updating(Reading):
    """The leaf whose backward returns its `Trained` parameters after the update, instead of their gradient.

    A leaf without parameters stays as it is.
    """

    def forward(self, params: Any, inputs: Any, *, key: Array | None = None) -> tuple[Any, Any]:
        """The leaf's."""
        return run(self.layer, params.params if isinstance(params, Trained) else params, inputs, key)

    def backward(self, params: Any, cache: Any, grad_outputs: Any) -> tuple[Any, Any]:
        """The leaf's, and the update."""
        if not isinstance(params, Trained):
            return self.layer.backward(params, cache, grad_outputs)
        own, opt_state, optimizer = params
        grad_inputs, gradient = self.layer.backward(own, cache, grad_outputs)
        updates, opt_state = optimizer.update(gradient, opt_state, own)
        return grad_inputs, Trained(apply_updates(own, updates), opt_state, optimizer)


@dataclass(frozen=True)
class _UpdatingRepeat(Repeat):
    """Copies of a layer that is updated, each in the place of the old, so that no second stack exists.

    Parameters are written one layer late. What layer l reads then comes from the stack in which l+1 was written, and
    the compiler, which sees that nothing reads the stack as it was before, writes into it instead of into a copy.
    """

    def backward(self, params: Any, caches: Any, delta: Array) -> tuple[Array, Any]:
        """∂L/∂a, and the new parameters."""
        times = self.times

        def step(done: Array, carry: tuple[Array, Any, Any]) -> tuple[Array, Any, Any]:
            delta, params, new = carry
            params = _put(params, new, jnp.minimum(times - done, times - 1))
            own, cache = _at((params, caches), times - 1 - done)
            delta, new = pull(self.layer, own, cache, delta)
            return delta, params, new

        unchanged = _at(params, times - 1)  # the first round writes what is there
        delta, params, new = jax.lax.fori_loop(0, times, step, (delta, params, unchanged))
        return delta, _put(params, new, 0)


def _at(stack: Any, index: ArrayLike) -> Any:
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, index, keepdims=False), stack)


def _put(stack: Any, entry: Any, index: ArrayLike) -> Any:
    return jax.tree.map(lambda a, b: jax.lax.dynamic_update_index_in_dim(a, b, index, 0), stack, entry)


def updating(network: Layer) -> Layer:
    """The network whose backward returns `Trained` parameters after the update, instead of their gradient."""
    if isinstance(network, Repeat):
        return _UpdatingRepeat(updating(network.layer), network.times)
    if isinstance(network, Composite):
        return network.with_parts(tuple(map(updating, network.parts)))
    return _Updating(network)


def updating_step(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    state: TrainState,
    x: Any,
    y: ArrayLike,
    sample_weight: Array | None = None,
) -> tuple[TrainState, Array]:
    """`train_step` with the update inside the backward pass: the same new state and J, but for rounding.

    Raises:
        ValueError: for an optimizer that is none of `jaxnet.optimizers`, or one with a mask: what it does to a layer
            may depend on the others.
    """
    if not is_elementwise(optimizer):
        raise ValueError("updating inside the backward pass needs an optimizer of jaxnet.optimizers without a mask")
    if not jax.tree.leaves(state.params):  # no leaf that would take the optimizer's count along
        return train_step(network, loss, optimizer, state, x, y, sample_weight)
    leaves = _Leaves(network)
    trained = leaves.join(optimizer, state.params, state.opt_state)
    key = step_key(network, state)
    cost, trained = cost_and_gradient(updating(network), loss)(trained, x, y, key=key, sample_weight=sample_weight)
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


@dataclass(frozen=True)
class _Marking(Reading):
    def init(self, key: Array) -> Any:
        """The leaf's parameters with a mark."""
        return _Leaf(self.layer.init(key), jnp.zeros([]))


class _Leaves:
    """Where a network's parameters divide into those of its leaves, and how an optimizer's state divides with them."""

    def __init__(self, network: Layer) -> None:
        marked = jax.eval_shape(map_layers(_Marking, network).init, jax.random.key(0))
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
