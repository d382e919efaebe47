"""Whether layers keep their contract, told by name: what the passes return, in which structure and shapes."""

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnet.layers.layer import Layer, Reading, map_layers, pair, pull, run


def abstract_passes(network: Layer, params: Any, inputs: Any, key: Array | None = None, *, batched: bool = True) -> Any:
    """Shapes and dtypes of a network's outputs, after both passes were traced, and every leaf checked.

    `batched` tells whether the first axis of the inputs is that of the batch; it may be one example.

    Raises:
        TypeError: for a layer whose passes do not return pairs, or that draws random numbers without saying so.
        ValueError: for one whose outputs do not have the batch's axis, or whose gradients are not like the inputs and
            the parameters.
    """
    return _both_passes.eval_shape(network, params, inputs, key, batched)


@partial(jax.jit, static_argnums=(0, 4))
def _both_passes(network: Layer, params: Any, inputs: Any, key: Array | None, batched: bool) -> Any:
    m = jnp.shape(jax.tree.leaves(inputs)[0])[:1] if batched else ()
    checked = map_layers(lambda leaf: leaf if isinstance(leaf, Reading) else _Checked(leaf, m), network)
    outputs, cache = run(checked, params, inputs, key)
    pull(checked, params, cache, jax.tree.map(jnp.zeros_like, outputs))
    return outputs


@dataclass(frozen=True, repr=False)
class _Checked(Reading):
    """The leaf whose passes are compared with the contract; m is the shape of the batch's axis, if there is one."""

    m: tuple[int, ...]

    def forward(self, params: Any, inputs: Any, *, key: Array | None = None) -> tuple[Any, Any]:
        """The leaf's."""
        try:
            passed = self.layer.forward(params, inputs, **({"key": key} if self.layer.needs_key else {}))
        except TypeError as error:
            if self.layer.needs_key or "key" not in inspect.signature(self.layer.forward).parameters:
                raise
            raise TypeError(
                f"{self.name}: forward was given no key and raised {error}: a layer that draws random numbers says so "
                "by the class attribute needs_key = True"
            ) from error
        outputs, cache = pair(self.layer, "forward", "(outputs, cache)", passed)
        if self.m and any(jnp.shape(leaf)[:1] == self.m for leaf in jax.tree.leaves(inputs)):
            for leaf in jax.tree.leaves(outputs):
                if jnp.shape(leaf)[:1] != self.m:
                    raise ValueError(
                        f"{self.name}: the first axis of the outputs must be that of the inputs, the batch of "
                        f"{self.m[0]}, got outputs of shape {jnp.shape(leaf)}"
                    )
        return outputs, (cache, inputs)

    def backward(self, params: Any, cache: Any, grad_outputs: Any) -> tuple[Any, Any]:
        """The leaf's."""
        cache, inputs = cache
        grad_inputs, grad_params = pull(self.layer, params, cache, grad_outputs)
        swapped = _difference(grad_inputs, params) is None and _difference(grad_params, inputs) is None
        for what, gradient, like in (("inputs", grad_inputs, inputs), ("parameters", grad_params, params)):
            difference = _difference(gradient, like)
            if difference:
                hint = "; the two are exchanged: the gradient by the inputs comes first" if swapped else ""
                raise ValueError(f"{self.name}: backward's gradient by the {what} {difference}{hint}")
        return grad_inputs, grad_params


def _difference(gradient: Any, like: Any) -> str | None:
    """In what a gradient is not like what it is by; None stands for the gradient by integers, or by all of them."""
    floats = [leaf for leaf in jax.tree.leaves(like) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    if gradient is None and not floats:
        return None
    found, expected = (
        jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: leaf is None) for tree in (gradient, like)
    )
    if [path for path, _ in found] != [path for path, _ in expected]:
        structures = jax.tree.structure(gradient), jax.tree.structure(like)
        return f"has the structure {structures[0]} where {structures[1]} is expected"
    for (path, own), (_, other) in zip(found, expected, strict=True):
        if own is not None and jnp.shape(own) != jnp.shape(other):
            where = jax.tree_util.keystr(path)
            return f"has shape {jnp.shape(own)}{' at ' + where if where else ''} where {jnp.shape(other)} is expected"
    return None
