"""Recurrence: a cell that is run along a sequence, and backpropagation through time (Werbos, 1990).

At each step a cell makes a new state of the last one and of p = W_x x_t + b_x and q = W_h h_(t-1) + b_h, element by
element. The products with W_x, and both weights' gradients, are one matrix product for all steps together.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxnet.arguments import check_instance, positive_integer
from jaxnet.initializers import Initializer, lecun_normal, zeros
from jaxnet.layers.layer import Layer


class Cell(NamedTuple):
    """The parameters of a cell; of its k gates, one behind the other."""

    weight_input: Float[Array, "k_hidden n"]
    weight_hidden: Float[Array, "k_hidden n_hidden"]
    bias_input: Float[Array, " k_hidden"]
    bias_hidden: Float[Array, " k_hidden"]


@dataclass(frozen=True)
class RecurrentCell:
    """What happens in one step, element by element: a subclass says it, and its derivative.

    The state is a tuple of arrays (m, n_hidden), of which the first is h.
    """

    n: int
    n_hidden: int
    initializer: Initializer = lecun_normal
    dtype: Any = float

    gates: ClassVar[int] = 1
    states: ClassVar[int] = 1

    @abstractmethod
    def step(self, p: Array, q: Array, state: tuple[Array, ...]) -> tuple[tuple[Array, ...], Any]:
        """The new state, and what `back` reads."""

    @abstractmethod
    def back(self, kept: Any, grad_state: tuple[Array, ...]) -> tuple[Array, Array, tuple[Array, ...]]:
        """From the gradients by the new state those by p, by q, and by the last state but for what goes through q."""


@dataclass(frozen=True)
class _RNNCell(RecurrentCell):
    """h_t = tanh(p + q)."""

    def step(self, p: Array, q: Array, state: tuple[Array, ...]) -> tuple[tuple[Array, ...], Any]:
        """Keeps h_t."""
        h = jnp.tanh(p + q)
        return (h,), h

    def back(self, kept: Any, grad_state: tuple[Array, ...]) -> tuple[Array, Array, tuple[Array, ...]]:
        """∂L/∂p = ∂L/∂q = ∂L/∂h (1 - h²); the last state goes through q alone."""
        delta = grad_state[0] * (1 - kept * kept)
        return delta, delta, (jnp.zeros_like(delta),)


@dataclass(frozen=True)
class _GRUCell(RecurrentCell):
    """r, z = σ(p + q) for the first two gates, c = tanh(p_c + r q_c), h_t = (1 - z) c + z h_(t-1)."""

    gates = 3

    def step(self, p: Array, q: Array, state: tuple[Array, ...]) -> tuple[tuple[Array, ...], Any]:
        """Keeps r, z, c, q_c and h_(t-1)."""
        (h,) = state
        (p_r, p_z, p_c), (q_r, q_z, q_c) = jnp.split(p, 3, -1), jnp.split(q, 3, -1)
        r, z = jax.nn.sigmoid(p_r + q_r), jax.nn.sigmoid(p_z + q_z)
        c = jnp.tanh(p_c + r * q_c)
        return ((1 - z) * c + z * h,), (r, z, c, q_c, h)

    def back(self, kept: Any, grad_state: tuple[Array, ...]) -> tuple[Array, Array, tuple[Array, ...]]:
        """With δ = ∂L/∂h_t, by the chain rule and σ' = σ(1 - σ), tanh' = 1 - tanh²:

        δ_c = δ (1 - z)(1 - c²)        ∂L/∂p_c = δ_c, ∂L/∂q_c = δ_c r
        δ_z = δ (h_(t-1) - c) z(1 - z)        δ_r = δ_c q_c r(1 - r)        ∂L/∂h_(t-1) = δ z, and through q
        """
        (delta,), (r, z, c, q_c, h) = grad_state, kept
        of_c = delta * (1 - z) * (1 - c * c)
        of_z = delta * (h - c) * z * (1 - z)
        of_r = of_c * q_c * r * (1 - r)
        grad_p = jnp.concatenate([of_r, of_z, of_c], -1)
        return grad_p, jnp.concatenate([of_r, of_z, of_c * r], -1), (delta * z,)


@dataclass(frozen=True)
class _LSTMCell(RecurrentCell):
    """i, f, o = σ(p + q) and g = tanh(p_g + q_g), in the order i, f, g, o; c_t = f c_(t-1) + i g, h_t = o tanh c_t."""

    gates = 4
    states = 2

    def step(self, p: Array, q: Array, state: tuple[Array, ...]) -> tuple[tuple[Array, ...], Any]:
        """Keeps i, f, g and o as one array, c_(t-1) and tanh c_t."""
        _, c = state
        i, f, g, o = jnp.split(p + q, 4, -1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        new = f * c + i * g
        bent = jnp.tanh(new)
        return (o * bent, new), (jnp.concatenate([i, f, g, o], -1), c, bent)

    def back(self, kept: Any, grad_state: tuple[Array, ...]) -> tuple[Array, Array, tuple[Array, ...]]:
        """With δ_h = ∂L/∂h_t, and δ_c what comes by c_t from the next step and by h_t:

        δ_c = ∂L/∂c_t + δ_h o (1 - tanh² c_t)
        δ_i = δ_c g i(1 - i)    δ_f = δ_c c_(t-1) f(1 - f)    δ_g = δ_c i (1 - g²)    δ_o = δ_h tanh c_t o(1 - o)
        ∂L/∂c_(t-1) = δ_c f, and h_(t-1) goes through q alone
        """
        (of_h, of_c), (gates, c, bent) = grad_state, kept
        i, f, g, o = jnp.split(gates, 4, -1)
        of_c = of_c + of_h * o * (1 - bent * bent)
        by_gate = [of_c * g * i * (1 - i), of_c * c * f * (1 - f), of_c * i * (1 - g * g), of_h * bent * o * (1 - o)]
        delta = jnp.concatenate(by_gate, -1)
        return delta, delta, (jnp.zeros_like(of_h), of_c * f)


@dataclass(frozen=True)
class _Recurrent(Layer):
    """h_1, ..., h_T of a cell, from a state of zeros."""

    cell: RecurrentCell
    reverse: bool = False

    factory = "recurrent"
    sums_widely = True

    def __repr__(self) -> str:
        """The call that makes it."""
        kind = type(self.cell).__name__.removeprefix("_").removesuffix("Cell").lower()
        return f"recurrent({kind}_cell({self.cell.n}, {self.cell.n_hidden}){', reverse=True' * self.reverse})"

    def init(self, key: Array) -> Cell:
        """Both weights by the cell's initializer, the biases 0."""
        cell, (input_key, hidden_key) = self.cell, jax.random.split(key)
        rows = cell.gates * cell.n_hidden
        weight_input = cell.initializer(input_key, (rows, cell.n), cell.dtype)
        weight_hidden = cell.initializer(hidden_key, (rows, cell.n_hidden), cell.dtype)
        return Cell(weight_input, weight_hidden, jnp.zeros(rows, cell.dtype), jnp.zeros(rows, cell.dtype))

    def forward(
        self, params: Cell, a: Float[Array, "*batch t n"], *, key: Array | None = None
    ) -> tuple[Float[Array, "*batch t n_hidden"], Any]:
        """The cache is a, all h_t, and what the cell keeps of each step."""
        cell = self.cell
        if a.ndim < 2 or a.shape[-1] != cell.n:
            raise ValueError(f"{self.name} needs inputs of shape (..., length, {cell.n}), got {a.shape}")
        x = jnp.moveaxis(a.reshape(-1, *a.shape[-2:]), 1, 0)
        p = _affine(x, params.weight_input, params.bias_input)
        start = (jnp.zeros((x.shape[1], cell.n_hidden), p.dtype),) * cell.states

        def step(state: tuple[Array, ...], p: Array) -> tuple[tuple[Array, ...], Any]:
            new, kept = cell.step(p, _affine(state[0], params.weight_hidden, params.bias_hidden), state)
            return new, (new[0], kept)

        _, (h, kept) = jax.lax.scan(step, start, p, reverse=self.reverse)
        return jnp.moveaxis(h, 0, 1).reshape(*a.shape[:-1], cell.n_hidden), (a, h, kept)

    def backward(self, params: Cell, cache: Any, delta: Float[Array, "*batch t n_hidden"]) -> tuple[Array, Cell]:
        """Backpropagation through time: from the last step to the first, ∂L/∂h_t is δ_t and what step t + 1 sends back.

        ∂L/∂h_(t-1) = W_hᵀ ∂L/∂q_t + what the cell sends directly;  ∂L/∂x_t = W_xᵀ ∂L/∂p_t
        ∂L/∂W_x = Σ_t ∂L/∂p_t x_tᵀ,  ∂L/∂W_h = Σ_t ∂L/∂q_t h_(t-1)ᵀ,  ∂L/∂b_x = Σ_t ∂L/∂p_t,  ∂L/∂b_h = Σ_t ∂L/∂q_t
        """
        a, h, _ = cache
        grad_p, grad_q = self._through_time(params, cache, delta)
        x = jnp.moveaxis(a.reshape(-1, *a.shape[-2:]), 1, 0)
        gradient = Cell(
            _products(grad_p, x, params.weight_input),
            _products(grad_q, self._before(h), params.weight_hidden),
            grad_p.sum((0, 1), dtype=params.bias_input.dtype),
            grad_q.sum((0, 1), dtype=params.bias_hidden.dtype),
        )
        grad_x = grad_p @ params.weight_input.astype(grad_p.dtype)
        return jnp.moveaxis(grad_x, 0, 1).reshape(a.shape), gradient

    def _before(self, h: Array) -> Array:
        """h_(t-1) of every step."""
        nothing = jnp.zeros_like(h[:1])
        return jnp.concatenate([h[1:], nothing] if self.reverse else [nothing, h[:-1]])

    def _through_time(self, params: Cell, cache: Any, delta: Array) -> tuple[Array, Array]:
        """∂L/∂p and ∂L/∂q of every step, (t, m, k n_hidden)."""
        cell, kept = self.cell, cache[2]
        delta = jnp.moveaxis(delta.reshape(-1, *delta.shape[-2:]), 1, 0)
        weight = params.weight_hidden.astype(delta.dtype)

        def back(sent: tuple[Array, ...], step: Any) -> tuple[tuple[Array, ...], tuple[Array, Array]]:
            delta, kept = step
            grad_p, grad_q, direct = cell.back(kept, (delta + sent[0], *sent[1:]))
            return (direct[0] + grad_q @ weight, *direct[1:]), (grad_p, grad_q)

        nothing = (jnp.zeros_like(delta[0]),) * cell.states
        return jax.lax.scan(back, nothing, (delta, kept), reverse=not self.reverse)[1]

    def squared_norms(self, params: Cell, cache: Any, delta: Float[Array, "m ... t n_hidden"]) -> Array:
        """‖Σ_t p_t x_tᵀ‖² = Σ_ts ⟨p_t, p_s⟩(⟨x_t, x_s⟩ + 1), and so for q and h: the 1 is that of the bias."""
        a, h, _ = cache
        if a.ndim > 3:  # several sequences an example
            return Layer.squared_norms(self, params, cache, delta)
        grad_p, grad_q = self._through_time(params, cache, delta)
        pairs = (grad_p, jnp.moveaxis(a, 1, 0)), (grad_q, self._before(h))
        return sum(((_gram(g) * (_gram(v) + 1)).sum((1, 2)) for g, v in pairs), jnp.zeros(len(a), delta.dtype))

    def without_init(self) -> Layer:
        """The sizes alone."""
        return replace(self, cell=replace(self.cell, initializer=zeros, dtype=float))


def _affine(x: Array, weight: Array, bias: Array) -> Array:
    z = x @ weight.T
    return z + jnp.broadcast_to(bias, z.shape)


def _products(left: Array, right: Array, like: Array) -> Array:
    """Σ left rightᵀ over steps and examples, summed in the dtype of `like` if it is the wider."""
    wide = like.dtype if jnp.finfo(like.dtype).bits > jnp.finfo(left.dtype).bits else None
    return jnp.tensordot(left, right, axes=((0, 1), (0, 1)), preferred_element_type=wide).astype(like.dtype)


def _gram(vectors: Float[Array, "t m n"]) -> Float[Array, "m t t"]:
    return jnp.einsum("tmi,smi->mts", vectors, vectors)


def recurrent(cell: RecurrentCell, *, reverse: bool = False) -> Layer:
    """All h_t of a cell along a sequence, (length, n) → (length, n_hidden), from zeros; from the last step if reversed.

    Raises:
        TypeError: if it is no cell; `ValueError` from `forward` for inputs of another size.
    """
    check_instance(RecurrentCell, cell, "jaxnet.layers.lstm_cell(8, 16)")
    return _Recurrent(cell, bool(reverse))


def _cell(kind: Any, n: int, n_hidden: int, initializer: Initializer, dtype: DTypeLike) -> Any:
    sizes = positive_integer("n", n), positive_integer("n_hidden", n_hidden)
    return kind(*sizes, initializer, dtype if dtype is float else jnp.dtype(dtype))


def rnn_cell(
    n: int, n_hidden: int, initializer: Initializer = lecun_normal, *, dtype: DTypeLike = float
) -> RecurrentCell:
    """h_t = tanh(W_x x_t + b_x + W_h h_(t-1) + b_h). Elman (1990).

    Raises:
        ValueError, TypeError: if a size is no integer of at least 1.
    """
    return _cell(_RNNCell, n, n_hidden, initializer, dtype)


def gru_cell(
    n: int, n_hidden: int, initializer: Initializer = lecun_normal, *, dtype: DTypeLike = float
) -> RecurrentCell:
    """Gated recurrent unit, its gates in PyTorch's order r, z, c; r acts on W_h h + b_h. Cho et al. (2014).

    Raises:
        ValueError, TypeError: as `rnn_cell`.
    """
    return _cell(_GRUCell, n, n_hidden, initializer, dtype)


def lstm_cell(
    n: int, n_hidden: int, initializer: Initializer = lecun_normal, *, dtype: DTypeLike = float
) -> RecurrentCell:
    """Long short-term memory, its gates in PyTorch's order i, f, g, o. Hochreiter and Schmidhuber (1997), Gers (2000).

    Raises:
        ValueError, TypeError: as `rnn_cell`.
    """
    return _cell(_LSTMCell, n, n_hidden, initializer, dtype)
