"""The derivative of what acts element by element: another stands in its place."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxnet.verify.engine.precision import Floats
from jaxnet.verify.mistakes.slips.local import Local, Slip, Slips
from jaxnet.verify.mistakes.surgery import acts_elementwise


def sigmoid(z: Floats) -> Floats:
    """σ(z)."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-z))


# What people write in place of g'(z), where a = g(z).
SUBSTITUTES: tuple[tuple[str, Callable[[Any], Floats]], ...] = (
    ("is missing", lambda o: np.ones_like(o.z)),
    ("is applied twice", lambda o: o.slope**2),
    ("is taken at the output a instead of the input z", lambda o: o.slope_at(o.a)),
    ("is replaced by a itself", lambda o: o.a),
    ("is replaced by z itself", lambda o: o.z),
    ("is replaced by 1 - a", lambda o: 1 - o.a),
    ("is replaced by 1 - a², that of tanh", lambda o: 1 - o.a**2),
    ("is replaced by a(1 - a), that of the sigmoid", lambda o: o.a * (1 - o.a)),
    ("is replaced by 1 - z²: the a in 1 - a² is the output", lambda o: 1 - o.z**2),
    ("is replaced by z(1 - z): the a in a(1 - a) is the output", lambda o: o.z * (1 - o.z)),
    ("is replaced by 1{z > 0}, that of ReLU", lambda o: (o.z > 0).astype(float)),
    ("is replaced by 1{z < 0}", lambda o: (o.z < 0).astype(float)),
    ("is replaced by that of a leaky ReLU", lambda o: np.where(o.z > 0, 1.0, 0.01)),
    ("is replaced by the sigmoid's", lambda o: sigmoid(o.z) * sigmoid(-o.z)),
    ("is replaced by that of tanh", lambda o: 1 - np.tanh(o.z) ** 2),
    ("is replaced by the sigmoid of z", lambda o: sigmoid(o.z)),
    ("is replaced by z²", lambda o: o.z**2),
    ("is replaced by a²", lambda o: o.a**2),
    ("is inverted: it divides where it must multiply", lambda o: 1 / o.slope),
    ("is taken at -z", lambda o: o.slope_at(-o.z)),
)

# Factors that get multiplied where none belongs, as where a loss contains its activation already.
INTRUDERS: tuple[tuple[str, Callable[[Floats], Floats]], ...] = (
    ("the sigmoid's", lambda z: sigmoid(z) * sigmoid(-z)),
    ("tanh's", lambda z: 1 - np.tanh(z) ** 2),
    ("ReLU's", lambda z: (z > 0).astype(float)),
)

# What acts element by element and is no activation.
POWERS = {"integer_pow", "pow", "square", "sqrt", "rsqrt", "cbrt", "div", "abs"}


def _of_activations(here: Local) -> Iterator[Slip]:
    """What stands in place of g'(z)."""
    operation = here.operation
    if operation.primitive and not acts_elementwise(operation.equation):
        return
    slope = here.slope[here.arriving != 0]
    if slope.size and np.ptp(slope) <= 1e-12 * np.abs(slope).max():
        return  # a linear function has no other slope to take
    for text, substitute in SUBSTITUTES:
        said = f"the derivative of `{here.operation.name}` {text}"
        yield Slip("activation", said, lambda o, s=substitute: o.arriving * s(o), here.operation.primitive in POWERS)
    alike = [o for o in here.activations if o.name == here.operation.name and here.seen[o.site].shape == here.z.shape]
    place = next((i for i, o in enumerate(alike) if o.site == here.operation.site), 0)
    for other in (*alike[max(place - 1, 0) : place], *alike[place + 1 : place + 2]):
        text = f"the derivative of `{here.operation.name}` is taken at the z of another layer"
        yield Slip("activation", text, lambda o, s=other.site: o.arriving * o.slope_at(np.asarray(o.seen[s])))


SLIPS = Slips(("activation",), _of_activations)
