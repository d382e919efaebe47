"""States: shared by arrays that should have their own, of another dtype after a step, and updates of another dtype."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.specimens.optimizers.subjects import ADAGRAD, ADAM, DESCENT, adam
from experiments.specimens.optimizers.wholes import Whole, transformation
from experiments.specimens.specimen import Catalogue
from experiments.specimens.wild.optimizers.rmsprop import adagrad
from experiments.specimens.wild.optimizers.schedules import descent

catalogue = Catalogue()
found = catalogue.found

EMBEDDINGS = {
    "item": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3),
    "user": np.linspace(1, -1, 12, dtype=np.float32).reshape(4, 3),
}


@found(
    "lyst/lightfm#32",
    "partial",
    "['user']",
    of=Whole("adagrad of two embeddings", optax.adagrad, EMBEDDINGS),
    mended=ADAGRAD.factory(adagrad),
)
def sum_of_the_items_for_the_users_too(learning_rate, eps=1e-7):
    """The users' gradients are divided by the root of the items' sum, for they have the same shape."""
    right: Any = ADAGRAD.optimizer(adagrad, learning_rate, eps=eps)

    def update(gradients, state, params=None):
        updates, after = right.update(gradients, state, params)
        shared = state.sum_of_squares | {"user": state.sum_of_squares["item"]}
        wrong, _ = right.update(gradients, state._replace(sum_of_squares=shared), params)
        return updates | {"user": wrong["user"]}, after

    return transformation(right.init, update)


WITHOUT_BIAS = {"weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "bias": np.ones(4, np.float32)}


@found(
    "nntrainer/nntrainer#219",
    "zero",
    "['bias']",
    of=Whole("gradient descent", optax.sgd, WITHOUT_BIAS),
    mended=DESCENT.factory(descent),
)
def bias_left_out_of_descent(learning_rate):
    """A bias that was not zero at first is never updated."""
    right: Any = DESCENT.optimizer(descent, learning_rate)

    def update(gradients, state, params=None):
        updates, after = right.update(gradients, state, params)
        return updates | {"bias": jnp.zeros_like(updates["bias"])}, after

    return transformation(right.init, update)


@found(
    "nntrainer/nntrainer#219",
    "scale",
    "['bias']",
    of=Whole("adam", optax.adam, WITHOUT_BIAS),
    mended=ADAM.factory(adam),
)
def bias_moved_twice(learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """Adam's case updates the bias, and what follows all cases updates it again."""
    right: Any = ADAM.optimizer(adam, learning_rate, b1=b1, b2=b2, eps=eps)

    def update(gradients, state, params=None):
        updates, after = right.update(gradients, state, params)
        return updates | {"bias": 2 * updates["bias"]}, after

    return transformation(right.init, update)


# dtypes ---------------------------------------------------------------------------------------------------------------

BFLOAT16 = {"weight": jnp.linspace(-1, 1, 6, dtype="bfloat16").reshape(2, 3), "bias": jnp.ones(4, "bfloat16")}


@found(
    "google-deepmind/optax#1405",
    "dtype",
    of=Whole("adam in bfloat16", optax.adam, BFLOAT16),
    mended=ADAM.factory(adam),
)
def updates_promoted_by_the_rate(learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """A learning rate that is an array of float32 promotes updates of bfloat16 parameters to float32."""
    direction: Any = optax.scale_by_adam(b1, b2, eps)

    def wide(rate, like):
        return jnp.asarray(rate, jnp.promote_types(like.dtype, jnp.float32))

    def update(gradients, state, params=None):
        directions, after = direction.update(gradients, state, params)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        return jax.tree.map(lambda d: -(d * wide(rate, d)), directions), after

    return transformation(direction.init, update)


@found(
    "google/tunix#1880",
    "dtype",
    of=Whole("adam in bfloat16", optax.adam, BFLOAT16),
    mended=ADAM.factory(adam),
)
def moments_promoted_by_the_rates(learning_rate, b1=0.9, b2=0.999, eps=1e-8):
    """β are arrays of float32 in the state, and the moments are bfloat16 before the first step and float32 after it."""
    right: Any = ADAM.optimizer(adam, learning_rate, b1=b1, b2=b2, eps=eps)

    def update(gradients, state, params=None):
        updates, after = right.update(gradients, state, params)
        wide = {n: jax.tree.map(lambda x: x.astype(jnp.float32), getattr(after, n)) for n in ("mu", "nu")}
        return updates, after._replace(**wide)

    return transformation(right.init, update)
