"""Judges layers and networks: backward against autodiff of forward, and every part alone."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jaxnet.arguments import check_finite
from jaxnet.layers import Composite, Layer, Reading, abstract_passes, check_layer, map_layers, run
from jaxnet.losses import Loss, check_loss
from jaxnet.verify.candidates.layers import Backward, Cost, CostGradient, Forward, LossGradient, forward_pass
from jaxnet.verify.doors.options import Asked, options
from jaxnet.verify.engine.case import Candidate, Options, Statement
from jaxnet.verify.engine.randomness import generator_of
from jaxnet.verify.judge import judge
from jaxnet.verify.report import Finding, Report


class Part(NamedTuple):
    """A leaf of a network with what enters it."""

    path: str
    layer: Layer
    params: Any
    inputs: Any


def verify_layer(layer: Layer, inputs: Any, *, key: Array, **asked: Unpack[Asked]) -> Report:
    """Judges a layer's backward against autodiff of its forward, ∂L/∂params and ∂L/∂inputs, as `verify_vjp` does.

    The parameters are those of `layer.init(key)` and others around them, so that a bias that starts at 0 hides nothing.

    Args:
        layer: a leaf or a composite.
        inputs: what forward takes, of the shape and dtype that it will be run with.
        key: of the parameters and the random points.
        **asked: as for `verify_gradient`.

    Returns:
        A report, true if nothing is wrong; its paths begin with `params` and `inputs`.

    Raises:
        TypeError: if it is no Layer, the outputs are no real floats, or key is no key.
        ValueError: if init or forward raises, or the inputs are empty or not finite.
    """
    check_layer(layer)
    params = layer.init(key)
    try:
        return _judge(Part("", layer, params, inputs), key, options(asked))
    except ValueError:
        with suppress(ValueError):  # says what breaks the contract; what the function raises was told
            abstract_passes(layer, params, inputs, key if layer.needs_key else None)
        raise


def _judge(part: Part, key: Array, asked: Options) -> Report:
    layer = part.layer
    names = (part.path or "params", f"{part.path} inputs".strip())
    args, candidate = (part.params, part.inputs), Candidate(Backward(layer))
    return judge(Statement(Forward(layer), candidate, args, (0, 1), (0, 1), layer.name, names=names), key, asked)


def verify_network(network: Layer, loss: Loss, x: Any, y: Any, *, key: Array, **asked: Unpack[Asked]) -> Report:
    """Judges the gradient of a network's cost, and each part alone: every leaf's backward, and the loss's gradient.

    Errors flow backwards: one wrong leaf makes the gradients of all leaves before it wrong. The findings therefore
    begin with the parts that are wrong by themselves, counted from the output.

    Args:
        network: the network; its parameters are those of `network.init(key)` and others around them.
        loss: its loss.
        x: inputs, (m, n_in).
        y: targets.
        key: of the parameters and the random points.
        **asked: as for `verify_gradient`.

    Returns:
        A report, true if nothing is wrong.

    Raises:
        TypeError: if it is no Layer, the outputs are no real floats, or key is no key.
        ValueError: if init or forward raises, or x is empty or not finite.
    """
    check_layer(network)
    check_loss(loss)
    x = jax.tree.map(jnp.asarray, x)
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        check_finite(f"x{jax.tree_util.keystr(path)}", leaf)
    params = network.init(key)
    wanted = options(asked)
    subject = f"{network.name}, {loss.name}"
    candidate = Candidate(CostGradient(network, loss))
    whole = judge(Statement(Cost(network, loss), candidate, (params, x, y), (0,), 0, subject, scalar=True), key, wanted)
    outputs, _ = forward_pass(network, params, x)
    args, candidate = (outputs, loss.targets(outputs, y)), Candidate(LossGradient(loss))
    of_loss = judge(Statement(loss.value, candidate, args, (0,), (0, 1), loss.name, names=("z", "y")), key, wanted)
    parts = [of_loss, *(_judge(part, key, wanted) for part in _parts_from_the_output(network, params, x, key))]
    alone = [finding._replace(part=part.subject) for part in parts for finding in part.findings]
    return Report(
        whole.subject,
        (*alone, *(_following(finding, alone) for finding in whole.findings)),
        whole.leaves | {f"{part.subject} {path}": units for part in parts for path, units in part.leaves.items()},
        tuple(dict.fromkeys([*whole.notes, *(f"{part.subject}: {note}" for part in parts for note in part.notes)])),
        whole.conditions | {"parts judged alone": str(len(parts))},
    )


def _following(finding: Finding, alone: list[Finding]) -> Finding:
    """A finding about the whole, with the part to look at."""
    if alone:
        advice = f"{alone[0].part} is wrong by itself at {alone[0].path}: mend that first"
    else:
        advice = "every part is right by itself: look at how they are composed"
    return finding._replace(explanation=f"{finding.explanation}; {advice}")


@dataclass(frozen=True, eq=False)
class _Recording(Reading):
    """The leaf that tells what enters it."""

    tell: Callable[[tuple[Any, Any]], None]

    def forward(self, params: Any, inputs: Any, *, key: Array | None = None) -> tuple[Any, Any]:
        """The leaf's."""
        self.tell((params, inputs))
        return run(self.layer, params, inputs, key)


def _parts_from_the_output(network: Layer, params: Any, x: Any, key: Array) -> list[Part]:
    """Every leaf with what enters it, the last first; equal leaves with equal inputs once."""
    entered: dict[str, tuple[Any, Any]] = {}
    paths = (path for path, _ in _leaves(network))

    def recording(leaf: Layer) -> Layer:
        return _Recording(leaf, partial(entered.__setitem__, next(paths)))

    forward_pass(map_layers(recording, network), params, x)
    parts: dict[Any, Part] = {}
    for path, leaf in _leaves(network):
        own, inputs = entered[path]
        arrays, structure = jax.tree.flatten(inputs)
        same = leaf, structure, *((jnp.shape(array), jnp.result_type(array)) for array in arrays)
        parts.pop(same, None)
        inside = any(isinstance(array, Tracer) for array in jax.tree.leaves(own))
        parts[same] = Part(path, leaf, leaf.init(key) if inside else own, _concrete(inputs, key))
    return list(reversed(parts.values()))


def _leaves(network: Layer, path: str = "") -> Iterator[tuple[str, Layer]]:
    """Every leaf and its path, in the order in which `map_layers` visits them."""
    if not isinstance(network, Composite):
        yield path, network
        return
    for i, part in enumerate(network.parts):
        yield from _leaves(part, f"{path}[{i}]")


def _concrete(inputs: Any, key: Array) -> Any:
    """The inputs, or, of those inside a scan, normal numbers of their shape."""
    drawn = generator_of(key)

    def concrete(array: Any) -> Any:
        return jnp.asarray(drawn.standard_normal(array.shape), array.dtype) if isinstance(array, Tracer) else array

    return jax.tree.map(concrete, inputs)
