"""The usual ways to check a gradient, as judges of one rule at one point: each says whether it objects."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

from experiments.specimens.specimen import Specimen

STEP, THRESHOLD = 1e-7, 1e-7
ALLCLOSE, CENTRAL, ONE_SIDED = "np.allclose", "central differences", "one-sided differences"
CHECK_GRADS = "check_grads"
PEERS = (CHECK_GRADS, ALLCLOSE, CENTRAL, ONE_SIDED)


class Case(NamedTuple):
    """A specimen at one point.

    Attributes:
        specimen: the function and the rule.
        args: the point.
        cotangent: a random cotangent of the outputs, in their own dtypes.
        key: for the judge that draws its own points.
    """

    specimen: Specimen
    args: tuple
    cotangent: Any
    key: jax.Array

    @property
    def chosen(self) -> tuple[int, ...]:
        """The arguments that are differentiated: those that hold floats, or those that the specimen names."""
        named = self.specimen.case.options.get("argnums")
        if named is not None:
            return (named,) if isinstance(named, int) else tuple(named)
        return tuple(i for i, arg in enumerate(self.args) if jax.tree.leaves(arg) and all(_floats(arg)))

    def cast(self, dtype: Any) -> "Case":
        """The case in another dtype; NumPy's arrays stay NumPy's, integers stay integers."""

        def convert(leaf: Any) -> Any:
            return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        return self._replace(args=jax.tree.map(convert, self.args), cotangent=jax.tree.map(convert, self.cotangent))

    def untouched(self) -> "Case":
        """A copy of its own, for a judge of rules that overwrite their arguments."""
        return self._replace(args=jax.tree.map(lambda a: a.copy() if isinstance(a, np.ndarray) else a, self.args))


def _floats(tree: Any) -> list[bool]:
    return [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(tree)]


def at_point(specimen: Specimen, scale: float, key: jax.Array) -> Case:
    """The specimen at a random point with weights of this scale."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    args = specimen.case.arguments(generator, scale)

    def normal(leaf: Any) -> jax.Array:
        return jnp.asarray(generator.standard_normal(leaf.shape), leaf.dtype)

    return Case(specimen, args, jax.tree.map(normal, jax.eval_shape(specimen.case.function, *args)), key)


# The other judges: each says whether it objects, and None where it cannot judge ---------------------------------------


def _raises(check: Callable[[], Any]) -> bool:
    """Whether the check, or the rule that it runs, raises anything."""
    try:
        check()
    except Exception:
        return True
    return False


def by_check_grads(case: Case) -> bool:
    """`check_grads` of a function whose `jax.custom_vjp` is the rule, in reverse mode: it has no other."""
    function, backward = case.specimen.case.function, case.specimen.case.backward

    @jax.custom_vjp
    def with_rule(*args: Any) -> Any:
        return function(*args)

    with_rule.defvjp(lambda *args: (function(*args), args), backward)

    def check() -> None:
        check_grads(lambda *chosen: with_rule(*_replaced(case, chosen)), _chosen(case), order=1, modes=("rev",))

    return _raises(check)


def by_allclose(case: Case) -> bool | None:
    """`np.allclose` at its defaults against autodiff, leaf by leaf, in the arguments' own dtypes.

    None where JAX cannot differentiate the function in reverse.
    """

    def close(found: Any, expected: Any) -> bool:
        found, expected = np.asarray(found), np.asarray(expected)
        return found.shape == expected.shape and np.allclose(found.astype(float), expected.astype(float))

    try:
        expected = jax.vjp(_of_chosen(case), *_chosen(case))[1](case.cotangent)
    except Exception:  # whatever JAX says, there is nothing to compare with
        return None

    def check() -> None:
        answer = case.specimen.case.backward(case.args, case.cotangent)
        for i, right in zip(case.chosen, expected, strict=True):
            agreement = jax.tree.map(close, _given_or_zero(answer, case.args, i), right)
            assert all(jax.tree.leaves(agreement))

    return _raises(check)


def by_differences(case: Case) -> tuple[bool, bool]:
    """The course's gradient check in float64, by central and by one-sided differences.

    The gradient of ⟨cotangent, f⟩ as one vector g must satisfy ‖g - d‖ ≤ 1e-7 (‖g‖ + ‖d‖), for differences d of step
    1e-7. NaN counts as an objection, and both being exactly 0 as none.
    """
    with jax.enable_x64(True):
        case = case.cast(np.float64)
        try:
            answer = case.specimen.case.backward(case.args, case.cotangent)
            leaves = jax.tree.leaves([_given_or_zero(answer, case.args, i) for i in case.chosen])
            gradient = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in leaves])
            above, below, value = map(np.asarray, _values(case.specimen.case.function)(*case[1:3], case.chosen))
            central, one_sided = (
                _relative(gradient, slopes) for slopes in ((above - below) / (2 * STEP), (above - value) / STEP)
            )
        except Exception:
            return True, True
    return not central <= THRESHOLD, not one_sided <= THRESHOLD


def _relative(gradient: np.ndarray, slopes: np.ndarray) -> float:
    size = np.linalg.norm(gradient) + np.linalg.norm(slopes)
    return float(np.linalg.norm(gradient - slopes) / size) if size else 0.0


@functools.cache
def _values(function: Callable[..., Any]) -> Callable[..., Any]:
    """⟨cotangent, f⟩ one step above and one below the point in every coordinate, and at it; compiled once."""

    @functools.partial(jax.jit, static_argnums=2)
    def values(args: tuple, cotangent: Any, chosen: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        vector, restored = ravel_pytree([args[i] for i in chosen])

        def value(vector: jax.Array) -> jax.Array:
            moved = dict(zip(chosen, restored(vector), strict=True))
            outputs = function(*(moved.get(i, arg) for i, arg in enumerate(args)))
            products = jax.tree.map(jnp.vdot, cotangent, outputs)
            return sum(jax.tree.leaves(products), start=jnp.zeros(()))

        steps = STEP * jnp.eye(len(vector))
        return jax.vmap(value)(vector[None] + steps), jax.vmap(value)(vector[None] - steps), value(vector)

    return values


def _of_chosen(case: Case) -> Callable[..., Any]:
    return lambda *chosen: case.specimen.case.function(*_replaced(case, chosen))


def _chosen(case: Case) -> tuple:
    return tuple(case.args[i] for i in case.chosen)


def _replaced(case: Case, chosen: tuple) -> tuple:
    """All arguments, with others for those that are differentiated."""
    others = dict(zip(case.chosen, chosen, strict=True))
    return tuple(others.get(i, arg) for i, arg in enumerate(case.args))


def _given_or_zero(answer: Any, args: tuple, i: int) -> Any:
    """The entry for an argument, with zeros for None, which stands for them everywhere in JAX."""
    return jax.tree.map(jnp.zeros_like, args[i]) if answer[i] is None else answer[i]


def by_peers(case: Case) -> dict[str, bool | None]:
    """What the judges other than `jaxnet.verify` say: whether they object."""
    # JAX knows a NumPy array in one dtype while a program that closes over it lives, and the judges run it in two.
    forget = jax.clear_caches if _closes_over_numpy(case) else lambda: None
    forget()
    objects: dict[str, bool | None] = {CHECK_GRADS: by_check_grads(case.untouched())}
    objects[ALLCLOSE] = by_allclose(case.untouched())
    forget()
    objects[CENTRAL], objects[ONE_SIDED] = by_differences(case.untouched())
    forget()
    return objects


def _closes_over_numpy(case: Case) -> bool:
    try:
        program = jax.make_jaxpr(case.specimen.case.function)(*case.args)
    except Exception:  # no function of JAX
        return False
    return any(isinstance(constant, np.ndarray) for constant in program.consts)
