"""Layers: three functions each, and the combinators that compose them.

A layer is `init`, `forward` and `backward`. The backward pass of a composite is composition in the other direction, so
the chain rule needs no code of its own: prove every leaf right, and every network is.

Notation: a is a leaf's input, z or a the output, δ = ∂L/∂(output) the gradient that arrives from above. Inputs are
(..., n_in): no leading axis is one example, one leading axis is a batch. Gradients of parameters are summed over the
leading axes; whoever wants a mean divides δ by m before it enters (see `jaxnet.network.cost_and_gradient`).

Factories are cached: building the same layer again gives the same object, so that `jax.jit` finds its compiled program.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float

from jaxnet.activations import Activation
from jaxnet.arguments import check_instance, positive_integer
from jaxnet.initializers import Initializer, lecun_normal, zeros


class Layer(NamedTuple):
    """A differentiable function with parameters, and its derivative written by hand.

    Attributes:
        init: key -> params.
        forward: (params, inputs) -> (outputs, cache); the cache is what backward will need.
        backward: (params, cache, grad_outputs) -> (grad_inputs, grad_params).
        name: how reports call it.
        parts: the layers that a composite is made of; empty for a leaf.
        rebuild: parts -> Layer makes the composite again from other parts; None for a leaf.
        updates: whether backward returns new params in the place of their gradient (see `jaxnet.updating`).
    """

    init: Callable[[Array], Any]
    forward: Callable[[Any, Array], tuple[Array, Any]]
    backward: Callable[[Any, Any, Array], tuple[Array, Any]]
    name: str
    parts: "tuple[Layer, ...]" = ()
    rebuild: "Callable[[tuple[Layer, ...]], Layer] | None" = None
    updates: bool = False


def check_layer(layer: Any) -> None:
    """Raises `TypeError` unless it is a layer."""
    check_instance(Layer, layer, "jaxnet.dense(64, 32)")


class Dense(NamedTuple):
    """The parameters of a dense layer."""

    weight: Float[Array, "n_out n_in"]
    bias: Float[Array, " n_out"]


@functools.cache
def dense(
    n_in: int,
    n_out: int,
    initializer: Initializer = lecun_normal,
    *,
    bias_initializer: Initializer = zeros,
    dtype: DTypeLike = float,
) -> Layer:
    """The linear part of a layer of neurons, z = W a + b.

    Raises:
        ValueError: if a size is below 1; from `forward`, if the inputs or the parameters have other sizes.
        TypeError: if a size is not an integer.
    """
    n_in, n_out = positive_integer("n_in", n_in), positive_integer("n_out", n_out)

    def init(key: Array) -> Dense:
        weight_key, bias_key = jax.random.split(key)
        return Dense(initializer(weight_key, (n_out, n_in), dtype), bias_initializer(bias_key, (n_out,), dtype))

    def forward(params: Dense, a: Float[Array, "*batch n_in"]) -> tuple[Float[Array, "*batch n_out"], Array]:
        """z = W a + b. The backward pass needs a, and has W already."""
        if a.shape[-1:] != (n_in,):
            raise ValueError(f"dense {n_in}→{n_out} needs inputs of shape (..., {n_in}), got {a.shape}")
        if (params.weight.shape, params.bias.shape) != ((n_out, n_in), (n_out,)):
            raise ValueError(
                f"dense {n_in}→{n_out} needs a weight of shape {(n_out, n_in)} and a bias of shape {(n_out,)}, "
                f"got {params.weight.shape} and {params.bias.shape}"
            )
        z = a @ params.weight.T
        return z + jnp.broadcast_to(params.bias, z.shape), a

    def backward(
        params: Dense, a: Float[Array, "*batch n_in"], delta: Float[Array, "*batch n_out"]
    ) -> tuple[Array, Dense]:
        """From z_i = Σ_j W_ij a_j + b_i and δ = ∂L/∂z, by the chain rule.

        ∂L/∂a = Wᵀ δ     (n_in,)          ∂z_i/∂a_j = W_ij, summed over i
        ∂L/∂W = δ aᵀ     (n_out, n_in)    ∂z_i/∂W_ij = a_j
        ∂L/∂b = δ        (n_out,)         ∂z_i/∂b_i = 1

        For a batch the last two are summed over its axes, which makes δ aᵀ one matrix product.
        """
        batch = tuple(range(delta.ndim - 1))
        grad_weight = jnp.tensordot(delta, a, axes=(batch, batch)).astype(params.weight.dtype)
        grad_bias = delta.sum(batch, dtype=params.bias.dtype)
        return delta @ params.weight, Dense(grad_weight, grad_bias)

    return Layer(init, forward, backward, f"dense {n_in}→{n_out}")


@functools.cache
def elementwise(activation: Activation) -> Layer:
    """The activation part of a layer of neurons, a = g(z); it has no parameters.

    Raises:
        TypeError: if it is no Activation.
    """
    check_instance(Activation, activation, "jaxnet.tanh")

    def init(key: Array) -> tuple[()]:
        del key
        return ()

    def forward(params: tuple[()], z: Array) -> tuple[Array, Array]:
        """a = g(z); caches whichever of the two g' reads."""
        a = activation.value(z)
        return a, a if activation.reads == "output" else z

    def backward(params: tuple[()], cache: Array, grad_a: Array) -> tuple[Array, tuple[()]]:
        """∂L/∂z = ∂L/∂a ⊙ g'(z): a_i depends on z_i alone, so the Jacobian is diagonal."""
        return grad_a * activation.derivative(cache), ()

    return Layer(init, forward, backward, activation.name)


def serial(*layers: Layer) -> Layer:
    """The composition of layers, first to last; parameters, caches and gradients are tuples in the same order.

    Raises:
        TypeError: if one is no Layer, a list of layers for instance.
    """
    for layer in layers:
        check_layer(layer)
    return _serial(*layers)


@functools.cache
def _serial(*layers: Layer) -> Layer:
    def init(key: Array) -> tuple[Any, ...]:
        return tuple(layer.init(k) for layer, k in zip(layers, jax.random.split(key, len(layers)), strict=True))

    def forward(params: tuple[Any, ...], a: Array) -> tuple[Array, tuple[Any, ...]]:
        """a[l] = f[l](a[l-1]), keeping every cache."""
        caches = []
        for layer, layer_params in zip(layers, params, strict=True):
            a, cache = layer.forward(layer_params, a)
            caches.append(cache)
        return a, tuple(caches)

    def backward(params: tuple[Any, ...], caches: tuple[Any, ...], delta: Array) -> tuple[Array, tuple[Any, ...]]:
        """The chain rule: the gradient by f[l]'s input is the gradient by f[l-1]'s output."""
        gradients = []
        for layer, layer_params, cache in zip(reversed(layers), reversed(params), reversed(caches), strict=True):
            delta, gradient = layer.backward(layer_params, cache, delta)
            gradients.append(gradient)
        return delta, tuple(reversed(gradients))

    name = f"serial({', '.join(layer.name for layer in layers)})"
    updates = all(layer.updates for layer in layers)
    return Layer(init, forward, backward, name, layers, lambda parts: serial(*parts), updates)


@functools.cache
def repeat(layer: Layer, times: int) -> Layer:
    """`times` copies of a layer in series, each with parameters of its own, stacked on a leading axis.

    Both passes are one `lax.scan`, so that compile time does not grow with depth.

    Raises:
        ValueError: if times < 1; from `forward`, if the layer's outputs differ from its inputs in shape or dtype.
        TypeError: if it is no Layer, or times is not an integer.
    """
    check_layer(layer)
    times = positive_integer("times", times)

    def init(key: Array) -> Any:
        return jax.vmap(layer.init)(jax.random.split(key, times))

    def forward(params: Any, a: Array) -> tuple[Array, Any]:
        """a[l] = f(a[l-1]; params[l]) for every l, with the caches stacked."""

        def step(a: Array, layer_params: Any) -> tuple[Array, Any]:
            outputs, cache = layer.forward(layer_params, a)
            if (outputs.shape, outputs.dtype) != (a.shape, a.dtype):
                raise ValueError(
                    f"repeat needs a layer whose outputs have the shape and dtype of its inputs; {layer.name} "
                    f"turns {a.dtype}{a.shape} into {outputs.dtype}{outputs.shape}"
                )
            return outputs, cache

        return jax.lax.scan(step, a, params, length=times)

    def backward(params: Any, caches: Any, delta: Array) -> tuple[Array, Any]:
        """The same scan in reverse, δ being what is carried."""

        def step(delta: Array, saved: tuple[Any, Any]) -> tuple[Array, Any]:
            return layer.backward(*saved, delta)

        return jax.lax.scan(step, delta, (params, caches), length=times, reverse=True)

    def update(params: Any, caches: Any, delta: Array) -> tuple[Array, Any]:
        """The same where the layer returns new params: each takes the place of the old, so that no second stack exists.

        It is written one layer late. What layer l reads then comes from the stack in which l+1 was written, and the
        compiler, which sees that nothing reads the stack as it was before, writes into it instead of into a copy.
        """

        def step(done: Array, carry: tuple[Array, Any, Any]) -> tuple[Array, Any, Any]:
            delta, params, new = carry
            params = _put(params, new, jnp.minimum(times - done, times - 1))
            own, cache = _at((params, caches), times - 1 - done)
            delta, new = layer.backward(own, cache, delta)
            return delta, params, new

        unchanged = _at(params, times - 1)  # the first round writes what is there
        delta, params, new = jax.lax.fori_loop(0, times, step, (delta, params, unchanged))
        return delta, _put(params, new, 0)

    name = f"{times} × {layer.name}"
    back = update if layer.updates else backward
    return Layer(init, forward, back, name, (layer,), lambda parts: repeat(parts[0], times), layer.updates)


def _at(stack: Any, index: ArrayLike) -> Any:
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, index, keepdims=False), stack)


def _put(stack: Any, entry: Any, index: ArrayLike) -> Any:
    return jax.tree.map(lambda a, b: jax.lax.dynamic_update_index_in_dim(a, b, index, 0), stack, entry)


def map_layers(transform: Callable[[Layer], Layer], network: Layer) -> Layer:
    """The same network with every leaf replaced by `transform(leaf)`.

    Combinators never look at what a leaf's backward returns beside ∂L/∂input; they only collect it. A transformed leaf
    may therefore return something else than its gradient, and one backward pass computes it for the whole network.
    """
    if network.rebuild is None:
        return transform(network)
    return network.rebuild(tuple(map_layers(transform, part) for part in network.parts))
