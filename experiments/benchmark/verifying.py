"""What a verdict costs: the first in a process beside `check_grads`, one that is repeated, and one on a wrong rule."""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.test_util import check_grads

import jaxnet
from experiments.benchmark.startup import printed
from experiments.specimens.gradients import subjects
from jaxnet import verify_custom_vjp, verify_vjp
from jaxnet.verify import Report

N = 8  # rows and columns of the small rules
LARGE = 1024  # of the repeated ones
DEPTH = 16  # of the chain
KEY = jax.random.key(0)


class Rule(NamedTuple):
    """A function, its hand-written rule (ct, *arguments) -> cotangents, and the arguments to judge it at."""

    function: Callable[..., Any]
    rule: Callable[..., Any]
    arguments: Callable[[], tuple[Any, ...]]

    def custom_vjp(self) -> Any:
        """The function that JAX differentiates by the rule."""
        with_rule = jax.custom_vjp(self.function)
        with_rule.defvjp(lambda *args: (self.function(*args), args), lambda saved, ct: self.rule(ct, *saved))
        return with_rule


def _normal(*shapes: tuple[int, ...]) -> Callable[[], tuple[Array, ...]]:
    return lambda: tuple(jax.random.normal(jax.random.fold_in(KEY, i), shape) for i, shape in enumerate(shapes))


def convolution(x: Array, w: Array) -> Array:
    """y[t] = Σ_k x[t + k] w[k] for a sequence x (t, in) and a kernel w (k, in, out)."""
    return jax.lax.conv_general_dilated(x[None], w, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))[0]


def convolution_rule(ct: Array, x: Array, w: Array) -> tuple[Array, Array]:
    """dx[t] = Σ_k w[k] δ[t - k], and dw[k] = Σ_t x[t + k]ᵀ δ[t]."""
    width, length = len(w), len(ct)
    padded = jnp.pad(ct, ((width - 1, width - 1), (0, 0)))
    dx = convolution(padded, w[::-1].swapaxes(1, 2))
    return dx, jnp.stack([x[k : k + length].T @ ct for k in range(width)])


def embedding(table: Array, index: Array) -> Array:
    """The rows of the table at these indices."""
    return table[index]


def embedding_rule(ct: Array, table: Array, index: Array) -> tuple[Array, None]:
    """δ added to the rows that were read, as often as each was."""
    return jnp.zeros_like(table).at[index].add(ct), None


def silu_rule(ct: Array, z: Array) -> tuple[Array]:
    """δ ⊙ silu'(z)."""
    return (ct * jaxnet.activations.silu.derivative(z),)


SMALL = {
    "dense": Rule(subjects.dense, subjects.dense_rule, _normal((N, N), (N, N), (N,))),
    "layer norm": Rule(subjects.layer_norm, subjects.layer_norm_rule, _normal((N, N), (N,))),
    "cross entropy": Rule(
        subjects.softmax_cross_entropy,
        subjects.softmax_cross_entropy_rule,
        lambda: (*_normal((N, N))(), jnp.arange(N) * 3 % N),
    ),
    "attention": Rule(subjects.attention, subjects.attention_rule, _normal((N, N), (N, N), (N, N))),
    "conv1d": Rule(convolution, convolution_rule, _normal((N, N), (3, N, N))),
    "embedding": Rule(embedding, embedding_rule, lambda: (*_normal((N, N))(), jnp.arange(N) * 3 % 5)),
}
REPEATED = {
    "silu": Rule(jax.nn.silu, silu_rule, _normal((LARGE, LARGE))),
    "dense": Rule(subjects.dense, subjects.dense_rule, _normal((64, LARGE), (LARGE, LARGE), (LARGE,))),
}
VERIFY, CHECK_GRADS = "verify_custom_vjp", "check_grads"
REPEAT = f"a verdict repeated at {LARGE}²"
NETWORK = "the first verify_network, 784-256-256-10, batch 64"
CHAIN = f"a wrong rule of {DEPTH} chained tanh,"


def first(name: str, judge: str) -> float:
    """Seconds of the first verdict on a small rule in this process."""
    function, arguments = SMALL[name].custom_vjp(), SMALL[name].arguments()
    started = time.perf_counter()
    if judge == VERIFY:
        verify_custom_vjp(function, *arguments, key=KEY).raise_if_failed()
    else:
        chosen = [leaf for leaf in arguments if jnp.issubdtype(leaf.dtype, jnp.floating)]
        indices = arguments[len(chosen) :]  # which come last
        check_grads(lambda *floats: function(*floats, *indices), chosen, order=1, modes=("rev",))
    return time.perf_counter() - started


def repeated(name: str) -> float:
    """Seconds of the second verdict on a large rule in this process."""
    function, arguments = REPEATED[name].custom_vjp(), REPEATED[name].arguments()
    verify_custom_vjp(function, *arguments, key=KEY).raise_if_failed()
    started = time.perf_counter()
    verify_custom_vjp(function, *arguments, key=KEY).raise_if_failed()
    return time.perf_counter() - started


def network() -> float:
    """Seconds of the first verdict on 784-256-256-10 in this process."""
    x, y = jax.random.normal(KEY, (64, 784)), jnp.arange(64) % 10
    started = time.perf_counter()
    judged = jaxnet.mlp((784, 256, 256, 10))
    jaxnet.verify_network(judged, jaxnet.softmax_cross_entropy, x, y, key=KEY).raise_if_failed()
    return time.perf_counter() - started


def chain(a: Array) -> Array:
    """tanh of tanh of ..."""
    for _ in range(DEPTH):
        a = jnp.tanh(a)
    return a


def _slipped(args: tuple[Array], ct: Array) -> tuple[Array]:
    """1 - a for 1 - a² in all of them."""
    (a,) = args
    for _ in range(DEPTH):
        a = jnp.tanh(a)
        ct = ct * (1 - a)
    return (ct,)


def _inexplicable(args: tuple[Array], ct: Array) -> tuple[Array]:
    """Something else is added."""
    right = jax.vjp(chain, *args)[1](ct)[0]
    return (right + 0.01 * ct.sum() * jnp.exp(args[0]),)


WRONG = {"one that is named": _slipped, "one that is not": _inexplicable}


def wrong(name: str) -> float:
    """Seconds of the first verdict on a wrong rule of chained tanh in this process."""
    arguments = _normal((3,))()
    started = time.perf_counter()
    report: Report = verify_vjp(chain, WRONG[name], *arguments, key=KEY)
    seconds = time.perf_counter() - started
    if report.passed:
        raise AssertionError(f"a wrong rule of {DEPTH} chained tanh passes:\n{report}")
    return seconds


def measured(rounds: Iterable[Any]) -> dict[str, np.ndarray]:
    """Seconds of everything, each in a process of its own in every round; the judges take turns."""
    calls = {f"{judge}: {name}": f"first({name!r}, {judge!r})" for name in SMALL for judge in (VERIFY, CHECK_GRADS)}
    calls |= {f"{REPEAT}: {name}": f"repeated({name!r})" for name in REPEATED}
    calls |= {NETWORK: "network()"} | {f"{CHAIN} {name}": f"wrong({name!r})" for name in WRONG}
    seconds = [{name: _alone(call) for name, call in calls.items()} for _ in rounds]
    return {name: np.array([one[name] for one in seconds]) for name in calls}


def _alone(call: str) -> float:
    """What one of these measures in a process of its own."""
    return float(printed(f"from experiments.benchmark import verifying; print(verifying.{call})"))
