"""Activation functions, each beside its hand-derived derivative.

An activation g acts element by element, so its derivative enters backpropagation element by element too:
δ[l] = (∂L/∂a[l]) ⊙ g'(z[l]).

`derivative` reads the output a = g(z) where that loses nothing, because then a alone must be cached; else it reads z.
The textbook forms a(1 - a) and 1 - a² do lose something: for large z the output rounds to 1 and the derivative to 0,
although its true value (2e-9 for the sigmoid at z = 20) is far from the smallest float32. They are therefore written
from z, in a form that is accurate in the tails. All values and derivatives are finite for every finite z.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Activation(NamedTuple):
    """An elementwise function a = g(z) with its derivative g'(z).

    Attributes:
        name: how reports call it.
        value: z -> a, of the same shape.
        derivative: g'(z), computed from a where `reads` is "output" and from z where it is "input".
        reads: which of the two `derivative` takes, and so which one the forward pass caches.
    """

    name: str
    value: Callable[[Array], Array]
    derivative: Callable[[Array], Array]
    reads: Literal["input", "output"]

    def __repr__(self) -> str:
        """Its name."""
        return self.name


def _sigmoid(z: Array) -> Array:
    """1/(1 + e^-z). A function of this module, as one that JAX has compiled does not pickle; so are the next two."""
    return jax.nn.sigmoid(z)


def _sigmoid_derivative(z: Array) -> Array:
    """a(1 - a) = σ(z) σ(-z) = e/(1 + e)² with e = exp(-|z|), which neither overflows nor rounds a tail away."""
    e = jnp.exp(-jnp.abs(z))
    return e / (1 + e) ** 2


def _tanh(z: Array) -> Array:
    """(e^z - e^-z)/(e^z + e^-z)."""
    return jnp.tanh(z)


def _tanh_derivative(z: Array) -> Array:
    """1 - a² = (1 - a)(1 + a) = 4 σ(-2z) σ(2z), since tanh(z) = 2σ(2z) - 1."""
    return 4 * _sigmoid_derivative(2 * z)


def _relu(z: Array) -> Array:
    """max(z, 0)."""
    return jax.nn.relu(z)


def _relu_derivative(a: Array) -> Array:
    """1 where z > 0, else 0; a > 0 exactly where z > 0. At the kink the convention is g'(0) = 0."""
    return (a > 0).astype(a.dtype)


def _identity(z: Array) -> Array:
    """z."""
    return z


def _identity_derivative(a: Array) -> Array:
    """1."""
    return jnp.ones_like(a)


def _softplus(z: Array) -> Array:
    """log(1 + e^z) = max(z, 0) + log(1 + e^-|z|), with -|z| as min(z, -z): autodiff of |z| at 0 is 1 in JAX, not 0."""
    return jnp.maximum(z, 0) + jnp.log1p(jnp.exp(jnp.minimum(z, -z)))


def _softplus_derivative(a: Array) -> Array:
    """σ(z) = 1 - e^-a, since e^a = 1 + e^z."""
    return -jnp.expm1(-a)


def _silu(z: Array) -> Array:
    """z σ(z)."""
    return z * jax.nn.sigmoid(z)


def _silu_derivative(z: Array) -> Array:
    """σ(z) + z σ'(z), where σ'(z) = σ(z) σ(-z)."""
    return jax.nn.sigmoid(z) + z * _sigmoid_derivative(z)


def _normal_distribution(z: Array) -> Array:
    """Φ(z) = ½ erfc(-z/√2), the standard normal distribution function."""
    return 0.5 * jax.lax.erfc(-z / math.sqrt(2))


def _gelu(z: Array) -> Array:
    """z Φ(z)."""
    return z * _normal_distribution(z)


def _gelu_derivative(z: Array) -> Array:
    """Φ(z) + z φ(z), where φ = Φ' is the normal density exp(-z²/2)/√(2π)."""
    density = jnp.exp(-0.5 * jnp.square(z)) / math.sqrt(2 * math.pi)
    return _normal_distribution(z) + z * density


def _gelu_tanh_argument(z: Array) -> tuple[Array, Array]:
    """u = 2√(2/π)(z + 0.044715 z³) and du/dz. Past |z| = 25, σ(u) is 0 or 1 in every dtype: z³ need not overflow."""
    z = jnp.clip(z, -25, 25)
    scale, cubic = 2 * math.sqrt(2 / math.pi), 0.044715
    return scale * (z + cubic * z**3), scale * (1 + 3 * cubic * z**2)


def _gelu_tanh(z: Array) -> Array:
    """½ z (1 + tanh(u/2)) = z σ(u)."""
    u, _ = _gelu_tanh_argument(z)
    return z * jax.nn.sigmoid(u)


def _gelu_tanh_derivative(z: Array) -> Array:
    """σ(u) + z σ'(u) du/dz."""
    u, slope = _gelu_tanh_argument(z)
    return jax.nn.sigmoid(u) + z * _sigmoid_derivative(u) * slope


sigmoid = Activation("sigmoid", _sigmoid, _sigmoid_derivative, "input")
tanh = Activation("tanh", _tanh, _tanh_derivative, "input")
relu = Activation("relu", _relu, _relu_derivative, "output")
identity = Activation("identity", _identity, _identity_derivative, "output")
softplus = Activation("softplus", _softplus, _softplus_derivative, "output")
silu = Activation("silu", _silu, _silu_derivative, "input")
gelu = Activation("gelu", _gelu, _gelu_derivative, "input")
gelu_tanh = Activation("gelu_tanh", _gelu_tanh, _gelu_tanh_derivative, "input")


@dataclass(frozen=True)
class _LeakyRelu:
    """z where z > 0, else s z."""

    slope: float

    def __call__(self, z: Array) -> Array:
        return jnp.where(z > 0, z, self.slope * z)


@dataclass(frozen=True)
class _LeakyReluDerivative:
    """1 where a > 0, else s."""

    slope: float

    def __call__(self, a: Array) -> Array:
        return jnp.where(a > 0, jnp.ones_like(a), self.slope)


def leaky_relu_with(negative_slope: float) -> Activation:
    """The leaky ReLU of another slope: a = z where z > 0, else s z; g' = 1 or s (s at the kink). Maas et al. (2013).

    Raises:
        ValueError: if s < 0, for then the sign of a no longer tells the sign of z.
    """
    if not negative_slope >= 0:
        raise ValueError(f"leaky_relu needs a negative_slope of at least 0, got {negative_slope}")
    slope = float(negative_slope)
    return Activation(f"leaky_relu({slope:g})", _LeakyRelu(slope), _LeakyReluDerivative(slope), "output")


@dataclass(frozen=True)
class _Elu:
    """z where z > 0, else α(e^z - 1)."""

    alpha: float

    def __call__(self, z: Array) -> Array:
        return jnp.where(z > 0, z, self.alpha * jnp.expm1(jnp.where(z > 0, 0, z)))


@dataclass(frozen=True)
class _EluDerivative:
    """1 where z > 0, else α e^z."""

    alpha: float

    def __call__(self, z: Array) -> Array:
        return jnp.where(z > 0, jnp.ones_like(z), self.alpha * jnp.exp(jnp.where(z > 0, 0, z)))


def elu_with(alpha: float) -> Activation:
    """The ELU of another α: a = z where z > 0, else α(e^z - 1); g' = 1 or α e^z.

    The derivative is a + α for z <= 0, but that sum cancels in the tail: it is written from z. Clevert et al. (2016).
    """
    alpha = float(alpha)
    return Activation(f"elu({alpha:g})", _Elu(alpha), _EluDerivative(alpha), "input")


leaky_relu = leaky_relu_with(0.01)
elu = elu_with(1.0)

ALL = (sigmoid, tanh, relu, identity, leaky_relu, softplus, silu, gelu, gelu_tanh, elu)
