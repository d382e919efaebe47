"""How good a network is on examples that it is not trained on: the cost, and what else one wants to know."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnet.examples import Examples, checked_examples, count
from jaxnet.layers import Layer, run
from jaxnet.losses import Loss
from jaxnet.step import TrainState
from jaxnet.training.history import Best

# (predictions, targets) -> a number for each example, such as `is_correct`; its mean is reported.
Metric = Callable[[Any, Array], Array]

# Examples in one forward pass: more would only take memory.
AT_ONCE = 1024


def checked_metrics(metrics: Mapping[str, Metric] | None, validation: Any) -> tuple[tuple[str, Metric], ...]:
    """The metrics by name, as part of what decides a compiled program.

    Raises:
        ValueError: if there are no validation data for them, or one is called "cost".
        TypeError: if one is no function.
    """
    if metrics and validation is None:
        raise ValueError("metrics are measured on validation data: give validation=(x, y) as well")
    for name, metric in (metrics or {}).items():
        if name == "cost":
            raise ValueError('a metric needs another name than "cost", which is measured anyway')
        if not callable(metric):
            raise TypeError(f"metric {name!r} must be a function of (predictions, y), got {metric!r:.80}")
    return tuple((metrics or {}).items())


def checked_validation(network: Layer, loss: Loss, params: Any, validation: Any) -> Examples:
    """The validation data on the device.

    Raises:
        TypeError: if they are no pair.
        ValueError, TypeError: as `checked_examples`.
    """
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError(f"validation must be a pair (x, y), got {validation!r:.80}")
    return Examples(*checked_examples(network.at_inference(), loss, params, *validation, name="validation "))


def evaluate(
    network: Layer, loss: Loss, params: Any, x: Any, y: Array, *, metrics: tuple[tuple[str, Metric], ...] = ()
) -> dict[str, Array]:
    """J and the mean of every metric over the examples, the network as it is at inference.

    Examples are taken so many at a time, which changes nothing: a mean is the mean of the means of parts, weighted by
    their sizes. A network that couples examples even at inference sees all of them at once.

    Args:
        network, loss, params: what is judged.
        x, y: the examples.
        metrics: (name, function of predictions and targets).
    """
    network = network.at_inference()
    m = count(x)
    size = m if network.couples_examples else min(m, AT_ONCE)

    def means(batch: tuple[Any, Array]) -> dict[str, Array]:
        x, y = batch
        outputs, _ = run(network, params, x)
        losses, prediction = loss.value(outputs, y), loss.predict(outputs)
        measured = {"cost": losses} | {name: metric(prediction, y) for name, metric in metrics}
        return {name: jnp.mean(values, dtype=losses.dtype) for name, values in measured.items()}

    if size == m:
        return means((x, y))
    whole = m - m % size
    parts = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, size, *leaf.shape[1:]), (x, y))
    total = jax.tree.map(lambda each: each.sum() * (size / m), jax.lax.map(means, parts))
    if whole == m:
        return total
    rest = means(jax.tree.map(lambda leaf: leaf[whole:], (x, y)))
    return jax.tree.map(lambda a, b: a + b * ((m - whole) / m), total, rest)


def unbeaten(state: TrainState, dtype: Any, shape: tuple[int, ...] = ()) -> Best:
    """What any network of so many is better than, with a copy of the parameters in the place of the best."""
    params = jax.tree.map(jnp.copy, state.params)
    return Best(jnp.full(shape, jnp.inf, dtype), jnp.zeros(shape, state.step.dtype), params)


def better(best: Best, cost: Array, state: TrainState) -> Best:
    """The better of the best so far and a state of this cost; one that is NaN never is."""
    cost = cost.astype(best.cost.dtype)
    return jax.lax.cond(cost < best.cost, lambda: Best(cost, state.step, state.params), lambda: best)
