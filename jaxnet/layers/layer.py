"""What a layer is: a configuration, and three pure functions of explicit arguments.

Notation: a is a layer's input, z or a its output, δ = ∂L/∂(output) the gradient that arrives from above. Leading axes
of inputs are the batch: none is one example. Gradients of parameters are summed over them; whoever wants a mean divides
δ by m before it enters (see `jaxnet.network.cost_and_gradient`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property, reduce
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from jaxnet.arguments import check_instance


@dataclass(frozen=True)
class Layer(ABC):
    """A differentiable function with parameters, and its derivative written by hand.

    A subclass is a frozen dataclass: its fields are the configuration, its methods pure functions. Layers of equal
    fields are equal, so that `jax.jit` finds its compiled program however they were spelled; functions among the fields
    are equal if they are the same one.

    Attributes:
        needs_key: whether `forward` draws random numbers and is to be given a key.
        couples_examples: whether the outputs of one example depend on the others of its batch.
        sums_widely: whether `backward` takes a δ and a cache narrower than its parameters, and sums in their dtype.
        factory: the function that makes it, where that is not the class itself.
    """

    needs_key: ClassVar[bool] = False
    couples_examples: ClassVar[bool] = False
    sums_widely: ClassVar[bool] = False
    factory: ClassVar[str] = ""

    @abstractmethod
    def init(self, key: Array) -> Any:
        """Fresh parameters: any tree of arrays."""

    @abstractmethod
    def forward(self, params: Any, inputs: Any, *, key: Array | None = None) -> tuple[Any, Any]:
        """(outputs, cache); the cache is what `backward` will need. A layer that draws nothing needs no `key`."""

    @abstractmethod
    def backward(self, params: Any, cache: Any, grad_outputs: Any) -> tuple[Any, Any]:
        """(∂L/∂inputs, ∂L/∂params), the latter in the structure of the parameters and summed over the leading axes."""

    # What only the layer knows ----------------------------------------------------------------------------------------

    @cached_property
    def name(self) -> str:
        """How reports call it."""
        return repr(self)

    @property
    def parts(self) -> "tuple[Layer, ...]":
        """The layers that it is made of, in the order in which the forward pass comes to them; none of a leaf."""
        return ()

    def squared_norms(self, params: Any, cache: Any, grad_outputs: Any) -> Array:
        """‖∂L(i)/∂params‖² for each example i, where axis 0 of the cache and of δ counts examples, (m,).

        Here by the gradient of each; where it has a closed form, a layer says so.

        Raises:
            ValueError: if the layer couples examples: then there is no gradient of one.
        """
        if self.couples_examples:
            raise ValueError(f"{self.name} couples the examples of a batch: there is no gradient of one example alone")
        _, gradients = jax.vmap(self.backward, in_axes=(None, 0, 0))(params, cache, grad_outputs)
        squares = [jnp.square(leaf).reshape(len(leaf), -1).sum(1) for leaf in jax.tree.leaves(gradients)]
        return reduce(jnp.add, squares, _zero_for_each(grad_outputs))

    def slope(self, cache: Any) -> Array | None:
        """g'(z) of a layer without parameters that acts element by element, from its cache; None of any other."""
        del cache
        return None

    def at_inference(self) -> "Layer":
        """The layer as it is used after training."""
        return self

    def at_population(self) -> "tuple[Layer, Callable[[Any, Any], Any]]":
        """What stands in its place when the statistics of all training data are known, by `population_statistics`.

        A layer, and the function (params, inputs) -> its parameters, where `inputs` are all that reach this layer. Here
        itself and its own; one that couples examples says what it does to an example alone.

        Raises:
            ValueError: if the layer couples examples and does not say so.
        """
        if self.couples_examples:
            raise ValueError(
                f"{self.name} couples the examples of a batch and does not say what it does to one alone: give it "
                "at_population(), a layer and (params, inputs) -> its parameters"
            )
        return self, lambda params, inputs: params

    def without_init(self) -> "Layer":
        """The layer without what `init` alone reads, which a compiled program does not depend on."""
        return self

    # As a value -------------------------------------------------------------------------------------------------------

    def __init_subclass__(cls, **options: Any) -> None:
        """Hands down how a layer is hashed and shown."""
        super().__init_subclass__(**options)
        for name in ("__hash__", "__repr__"):  # `dataclass` leaves alone what it finds in the class itself
            setattr(cls, name, getattr(cls, name))

    def __hash__(self) -> int:
        """Of the class and the fields, computed once: `jit` asks at every call."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((type(self), *(getattr(self, field.name) for field in fields(self))))

    def __getstate__(self) -> dict[str, Any]:
        """The fields: another process has other hashes."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __repr__(self) -> str:
        """The call that makes it: `dense(64, 32)`."""
        shown = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.default is MISSING:
                shown.append(spelled(value))
            elif value != field.default:
                shown.append(f"{field.name}={spelled(value)}")
        return f"{self.factory or type(self).__name__}({', '.join(shown)})"


def spelled(value: Any) -> str:
    """A field of a layer in a word or two."""
    if type(value) is tuple:
        return ", ".join(map(spelled, value))
    return getattr(value, "__name__", None) or repr(value)


def check_layer(layer: Any) -> None:
    """Raises `TypeError` unless it is a layer."""
    check_instance(Layer, layer, "jaxnet.dense(64, 32)")


def run(layer: Layer, params: Any, inputs: Any, key: Array | None = None) -> tuple[Any, Any]:
    """The layer's forward pass, with a key only where it needs one.

    Raises:
        ValueError: if it needs a key and there is none.
        TypeError: if it does not return a pair.
    """
    if layer.needs_key and key is None:
        raise ValueError(f"{layer.name} draws random numbers: give forward a key")
    passed = layer.forward(params, inputs, key=key) if layer.needs_key else layer.forward(params, inputs)
    return pair(layer, "forward", "(outputs, cache)", passed)


def pull(layer: Layer, params: Any, cache: Any, grad_outputs: Any) -> tuple[Any, Any]:
    """The layer's backward pass.

    Raises:
        TypeError: if it does not return a pair.
    """
    passed = layer.backward(params, cache, grad_outputs)
    return pair(layer, "backward", "(gradient by the inputs, gradient by the parameters)", passed)


def pair(layer: Layer, which: str, expected: str, passed: Any) -> tuple[Any, Any]:
    """What a pass returned, after a `TypeError` unless it is a pair; an array of two examples comes apart like one."""
    if type(passed) is not tuple or len(passed) != 2:
        came = type(passed).__name__
        if isinstance(passed, Array):
            came = f"an array of shape {passed.shape}"
        elif isinstance(passed, tuple):
            came = f"a tuple of {len(passed)}"
        raise TypeError(f"{layer.name}: {which} must return {expected}, got {came}")
    return passed


class Composite(Layer):
    """A layer that is made of others. Its backward pass is composition in the other direction.

    Combinators never look at what a part's backward returns beside ∂L/∂inputs; they only collect it.
    """

    stacked: ClassVar[int | None] = None
    """The length of the axis on which the parameters of its parts are stacked, if they are."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Layer, ...]:
        """The layers that it is made of."""

    @abstractmethod
    def with_parts(self, parts: tuple[Layer, ...]) -> Layer:
        """The same of other parts."""

    @cached_property
    def needs_key(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether a part does."""
        return any(part.needs_key for part in self.parts)

    @cached_property
    def couples_examples(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether a part does."""
        return any(part.couples_examples for part in self.parts)

    def squared_norms(self, params: Any, cache: Any, grad_outputs: Any) -> Array:
        """Those of all parts together."""
        with_norms = map_layers(SquaredNorms, self)
        _, squares = with_norms.backward(params, cache, grad_outputs)
        zero = _zero_for_each(grad_outputs)
        # `repeat` stacks its layers on a leading axis, so the examples are the last one.
        return reduce(jnp.add, (square.reshape(-1, len(zero)).sum(0) for square in jax.tree.leaves(squares)), zero)

    def at_inference(self) -> Layer:
        """Of every part."""
        return self.with_parts(tuple(part.at_inference() for part in self.parts))

    def without_init(self) -> Layer:
        """Of every part."""
        return self.with_parts(tuple(part.without_init() for part in self.parts))


def map_layers(transform: Callable[[Layer], Layer], network: Layer) -> Layer:
    """The same network with every leaf replaced by `transform(leaf)`.

    A transformed leaf may return something else than its gradient, and one backward pass computes it for the whole
    network (see `Reading`).
    """
    if not isinstance(network, Composite):
        return transform(network)
    return network.with_parts(tuple(map_layers(transform, part) for part in network.parts))


@dataclass(frozen=True, repr=False)
class Reading(Layer):
    """A layer some of whose passes are others: what a subclass does not say is the layer's own."""

    layer: Layer

    @cached_property
    def needs_key(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the layer."""
        return self.layer.needs_key

    @cached_property
    def couples_examples(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the layer."""
        return self.layer.couples_examples

    @cached_property
    def name(self) -> str:
        """The layer's."""
        return self.layer.name

    def init(self, key: Array) -> Any:
        """The layer's."""
        return self.layer.init(key)

    def forward(self, params: Any, inputs: Any, *, key: Array | None = None) -> tuple[Any, Any]:
        """The layer's."""
        return run(self.layer, params, inputs, key)

    def backward(self, params: Any, cache: Any, grad_outputs: Any) -> tuple[Any, Any]:
        """The layer's."""
        return self.layer.backward(params, cache, grad_outputs)

    def squared_norms(self, params: Any, cache: Any, grad_outputs: Any) -> Array:
        """The layer's."""
        return self.layer.squared_norms(params, cache, grad_outputs)

    def slope(self, cache: Any) -> Array | None:
        """The layer's."""
        return self.layer.slope(cache)

    def at_inference(self) -> Layer:
        """Of the layer."""
        return replace(self, layer=self.layer.at_inference())

    def without_init(self) -> Layer:
        """Of the layer."""
        return replace(self, layer=self.layer.without_init())


@dataclass(frozen=True, repr=False)
class SquaredNorms(Reading):
    """The leaf whose backward returns ‖∂L(i)/∂params‖² for each example i instead of the gradient's sum."""

    def backward(self, params: Any, cache: Any, grad_outputs: Any) -> tuple[Any, Any]:
        """∂L/∂inputs, and what the leaf says of its norms."""
        grad_inputs, gradient = self.layer.backward(params, cache, grad_outputs)
        if not jax.tree.leaves(params):
            return grad_inputs, gradient
        return grad_inputs, self.layer.squared_norms(params, cache, grad_outputs)


def _zero_for_each(grad_outputs: Any) -> Array:
    """A zero for each example."""
    delta = jax.tree.leaves(grad_outputs)[0]
    return jnp.zeros(len(delta), delta.dtype)
