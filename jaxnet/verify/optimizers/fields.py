"""The fields of two optimizers' states: which stands for which, by name and by value."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from jaxnet.verify.optimizers.program import as_numbers

SYNONYMS = (
    {"count", "step", "steps", "t", "iteration", "iterations"},
    {"mu", "m", "exp_avg", "velocity", "trace", "ema", "momentum", "momentum_buffer", "first_moment"},
    {"nu", "v", "s", "exp_avg_sq", "square_avg", "sum_of_squares", "sum", "second_moment", "accumulator", "exp_inf"},
    {"nu_max", "vmax", "max_exp_avg_sq"},
)


class Field(NamedTuple):
    """A leaf of an optimizer's state.

    Attributes:
        path: in the state, such as "[0].mu['weight']".
        of: the path of the leaf of the parameters that it belongs to; None for a counter and its like.
        name: the last name in the path before that, such as "mu".
        shape: without the axis of steps.
        whole: whether it is an integer, such as a counter.
    """

    path: str
    of: str | None
    name: str
    shape: tuple[int, ...]
    whole: bool

    def alike(self, other: "Field") -> bool:
        """Whether the two may stand for the same thing: the same shape, of the same parameter."""
        return self.shape == other.shape and self.of == other.of

    def namesake(self, other: "Field") -> bool:
        """Whether their names say so."""
        synonyms = next((group for group in SYNONYMS if self.name in group), {self.name})
        return self.alike(other) and other.name in synonyms


def fields(state: Any, parameters: Any) -> list[Field]:
    """The leaves of a state that belongs to these parameters."""
    owned = {keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(parameters)}
    return [_field(keystr(path), leaf, owned) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _field(path: str, leaf: Any, parameters: dict[str, tuple[int, ...]]) -> Field:
    leaf = as_numbers(leaf)
    owner = max((owner for owner in parameters if path.endswith(owner)), key=len, default=None)
    names = re.findall(r"[A-Za-z_]\w*", path.removesuffix(owner or ""))
    of = owner if owner is not None and parameters[owner] == leaf.shape else None
    return Field(path, of, names[-1] if names else "", leaf.shape, not jnp.issubdtype(leaf.dtype, jnp.floating))
