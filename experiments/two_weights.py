"""A cost of two weights, which can be seen from above: one neuron with two inputs, its bias held at 0."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from sklearn.datasets import load_breast_cancer

import jaxnet

NEURON = jaxnet.mlp((2, 1))


def cost(loss: jaxnet.losses.Loss) -> Callable[[Array, Array, Array], Array]:
    """The function (w, x, y) -> J of the weights w (2,) on the examples x (m, 2), y (m,)."""
    function = jaxnet.cost(NEURON, loss)
    return lambda w, x, y: function(_params(w), x, y)


def gradient(loss: jaxnet.losses.Loss) -> Callable[[Array, Array, Array], Array]:
    """The function (w, x, y) -> ∂J/∂w, by the hand-derived backward pass."""
    function = jaxnet.cost_and_gradient(NEURON, loss)
    return lambda w, x, y: function(_params(w), x, y)[1][0].weight[0]


def _params(w: Array) -> Any:
    return (jaxnet.layers.Dense(w[None], jnp.zeros(1, w.dtype)),)


def quadratic(stretch: Array, angle: Array) -> Array:
    """Four inputs x whose squared error has the curvature (1/m) Σ x xᵀ: 1 across, 1/κ along a valley at this angle."""
    across, along = directions(angle)
    steep, flat = jnp.sqrt(2.0) * across, jnp.sqrt(2.0 / stretch) * along
    return jnp.stack([steep, -steep, flat, -flat])


def directions(angle: Array) -> tuple[Array, Array]:
    """The unit vectors across and along the valley of `quadratic`."""
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([-sine, cosine]), jnp.stack([cosine, sine])


def tumours(features: tuple[str, str], count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two standardized features x (m, 2) of so many tumours drawn from the breast-cancer data, and y, 1 for benign."""
    bunch: Any = load_breast_cancer()
    columns = [list(bunch.feature_names).index(feature) for feature in features]
    rows = generator.choice(len(bunch.data), count, replace=False)
    x = bunch.data[rows][:, columns]
    return jaxnet.standardize(jaxnet.fit_standardization(x), x), bunch.target[rows].astype(np.float64)


def curvature(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """∂²J/∂w² of the logistic cost, (1/m) Xᵀ diag(ŷ(1 - ŷ)) X."""
    prediction = 1 / (1 + np.exp(-x @ w))
    return (x.T * (prediction * (1 - prediction))) @ x / len(x)


_logistic_cost = jax.jit(cost(jaxnet.binary_cross_entropy))
_logistic_gradient = jax.jit(gradient(jaxnet.binary_cross_entropy))


def minimum(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The weights of least logistic cost, by Newton's method with halved steps where a whole one overshoots."""
    w = np.zeros(2)
    for _ in range(50):
        step = np.linalg.solve(curvature(w, x), np.asarray(_logistic_gradient(w, x, y)))
        if np.abs(step).max() < 1e-13 * max(1.0, np.abs(w).max()):
            break
        while np.abs(step).max() > 1e-10 and _logistic_cost(w - step, x, y) > _logistic_cost(w, x, y):
            step = step / 2
        w = w - step
    return w


def seen_from_above(value: Callable[[Array], Array], limits: tuple[float, float, float, float]) -> dict[str, Any]:
    """The cost on a grid of weights, for `draw_contours`; limits are left, right, bottom, top."""
    left, right, bottom, top = limits
    w_1, w_2 = np.linspace(left, right, 60), np.linspace(bottom, top, 60)
    grid = np.stack(np.meshgrid(w_1, w_2), axis=-1)
    return {"w_1": w_1, "w_2": w_2, "cost": np.asarray(jax.vmap(jax.vmap(value))(jnp.asarray(grid)))}


def draw_contours(panel: Axes, seen: dict[str, Any]) -> None:
    """Contours in quiet grey, further apart the higher they are."""
    height = seen["cost"] - seen["cost"].min()
    levels = seen["cost"].min() + height.max() * np.linspace(0.12, 1, 14) ** 3
    panel.contour(seen["w_1"], seen["w_2"], seen["cost"], levels=levels, colors="#C4C4C4", linewidths=0.7)
    panel.set(xlabel="weight $w_1$", ylabel="weight $w_2$")
