"""Gradients and steps held back by their length, and the factors of Adafactor's mean square."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import GradientTransformation

from experiments.specimens.optimizers.wholes import Whole, chained, transformation
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found


def stateless(change: Any) -> GradientTransformation:
    """updates -> updates, as a transformation without state."""
    return optax.stateless(lambda updates, params: change(updates))


def clipped_adam(learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> GradientTransformation:
    """Adam of gradients whose common length is 1 at most."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate, b1, b2, eps))


def held(length: Any, most: float) -> Any:
    """The factor that makes a length `most` where it is more."""
    return jnp.where(length > most, most / jnp.where(length > most, length, 1.0), 1.0)


def clipped_together(learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Any:
    """The same by hand."""

    def clip(updates: Any) -> Any:
        factor = held(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(updates))), 1.0)
        return jax.tree.map(lambda g: factor.astype(g.dtype) * g, updates)

    return optax.chain(stateless(clip), optax.adam(learning_rate, b1, b2, eps))


@found(
    "huggingface/transformers#581",
    "convention",
    of=Whole("adam of clipped gradients", clipped_adam),
    mended=clipped_together,
)
def every_array_clipped_by_itself(learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """Each array is held to the length 1, where their common length should be."""

    def clip(updates):
        return jax.tree.map(lambda g: held(jnp.sqrt(jnp.sum(g**2)), 1.0).astype(g.dtype) * g, updates)

    return optax.chain(stateless(clip), optax.adam(learning_rate, b1, b2, eps))


def root_mean_square(x: Any) -> Any:
    """√(mean of x²)."""
    return jnp.sqrt(jnp.mean(x**2))


@found(
    "huggingface/pytorch-image-models#2790",
    "convention",
    of=Whole("descent with clipped steps", chained(optax.clip_by_block_rms(0.5))),
    mended=chained(stateless(lambda us: jax.tree.map(lambda u: u / jnp.maximum(1, root_mean_square(u) / 0.5), us))),
)
def small_steps_made_large(learning_rate):
    """The divisor is min(1, d · RMS) where max(1, RMS/d) should be: large steps stay, and small ones grow to 1/d."""

    def clip(updates):
        return jax.tree.map(lambda u: u / jnp.minimum(1, jnp.maximum(root_mean_square(u) * 0.5, 1e-30)), updates)

    return chained(stateless(clip))(learning_rate)


@found(
    "google-deepmind/optax#408",
    "convention",
    of=Whole("rmsprop with clipped steps", chained(optax.scale_by_rms(), optax.clip_by_block_rms(1.0))),
    mended=chained(
        optax.scale_by_rms(),
        stateless(lambda us: jax.tree.map(lambda u: u / jnp.maximum(1, root_mean_square(u)), us)),
    ),
)
def gradient_clipped_in_place_of_the_step(learning_rate):
    """What is held back is the gradient before it is scaled, not the step after it."""
    return chained(optax.clip_by_block_rms(1.0), optax.scale_by_rms())(learning_rate)


# Adafactor's factors: one mean square for each row and one for each column --------------------------------------------

MATRICES = {
    "tall": np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3),
    "wide": np.linspace(1, -1, 8, dtype=np.float32).reshape(2, 4),
}
FACTORED = chained(optax.scale_by_factored_rms(min_dim_size_to_factor=2, epsilon=1e-12))


def factored(normalizer_of: Any) -> Any:
    """A factory: g/√(r cᵀ/mean(r)), whose mean is taken by this function."""

    def make(learning_rate: Any) -> GradientTransformation:
        def init(params: Any) -> Any:
            rows = jax.tree.map(lambda p: jnp.zeros_like(p[:, 0]), params)
            return jnp.zeros([], jnp.int32), rows, jax.tree.map(lambda p: jnp.zeros_like(p[0]), params)

        def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            count, rows, columns = state

            def moved(old: Any, g: Any, axis: int) -> Any:
                keep = (1 - jnp.asarray(count + 1, jnp.float32) ** -0.8).astype(g.dtype)  # as Optax has it
                return keep * old + (1 - keep) * jnp.mean(g**2 + 1e-12, axis=axis)

            rows = jax.tree.map(lambda r, g: moved(r, g, 1), rows, gradients)
            columns = jax.tree.map(lambda c, g: moved(c, g, 0), columns, gradients)

            def scaled(g: Any, r: Any, c: Any) -> Any:
                return g / jnp.sqrt(r / normalizer_of(r, g.shape))[:, None] / jnp.sqrt(c)[None, :]

            return jax.tree.map(scaled, gradients, rows, columns), (count + 1, rows, columns)

        return chained(transformation(init, update))(learning_rate)

    return make


@found(
    "huggingface/pytorch-image-models#2749",
    "partial",
    "['tall']",
    of=Whole("descent by factored mean squares", FACTORED, MATRICES),
    mended=factored(lambda r, shape: jnp.mean(r)),
)
def rows_of_tall_matrices_not_scaled(learning_rate):
    """Where there are more rows than columns the mean is taken along an axis of length 1: r/mean(r) is 1."""
    return factored(lambda r, shape: r if shape[0] > shape[1] else jnp.mean(r))(learning_rate)
