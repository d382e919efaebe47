"""A function with a rule for its derivative, as a case that can be judged."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.verify import Report, verify_vjp

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Derivative(NamedTuple):
    """A function and a rule for its derivative.

    Attributes:
        function: (*arguments) -> outputs (arrays or pytrees), itself right.
        backward: (arguments, cotangent of the outputs) -> a tuple with one cotangent for each argument.
        arguments: (generator, weight scale) -> arguments, JAX or NumPy arrays.
        options: of `verify_vjp`.
    """

    function: Callable[..., Any]
    backward: Callable[[tuple, Any], tuple]
    arguments: Callable[[np.random.Generator, float], tuple]
    options: Mapping[str, Any] = NO_OPTIONS

    def verify(self, key: Any, scale: float = 1.0) -> Report:
        """The report at random arguments, which the key decides."""
        generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return verify_vjp(self.function, self.backward, *self.arguments(generator, scale), key=key, **self.options)


class Function(NamedTuple):
    """A function that is itself right, and points at which to judge rules for its derivative.

    A rule is written (ct, *arguments) -> cotangents, where ct is the cotangent of the function's output.

    Attributes:
        area: the part of a network that it belongs to.
        function: (*arguments) -> outputs.
        arguments: (generator, weight scale) -> arguments.
        options: of `verify_vjp`, such as `argnums`.
    """

    area: str
    function: Callable[..., Any]
    arguments: Callable[[np.random.Generator, float], tuple]
    options: Mapping[str, Any] = NO_OPTIONS

    def case(self, rule: Callable[..., Any]) -> Derivative:
        """The rule for this function's derivative, to be judged."""
        return Derivative(self.function, lambda args, ct: rule(ct, *args), self.arguments, self.options)

    def cast(self, dtype: Any, area: str = "dtype") -> "Function":
        """The same function of arguments in another floating-point type."""

        def convert(argument: Any) -> Any:
            return argument.astype(dtype) if jnp.issubdtype(argument.dtype, jnp.floating) else argument

        def arguments(generator: np.random.Generator, scale: float) -> tuple:
            return jax.tree.map(convert, self.arguments(generator, scale))

        return self._replace(area=area, arguments=arguments)
