"""The product rule and the quotient rule: a factor that is missing or another."""

from collections.abc import Iterator

import numpy as np

from jaxnet.verify.mistakes.slips.local import Local, Slip, Slips, handed_on
from jaxnet.verify.mistakes.surgery import acts_elementwise
from jaxnet.verify.report import Kind


def _of_products(here: Local) -> Iterator[Slip]:
    """The product rule and the quotient rule: a factor that is missing or another."""
    if here.operation.primitive not in ("mul", "div") or acts_elementwise(here.operation.equation):
        return
    name, divides = here.operation.name, here.operation.primitive == "div"
    if divides and here.operation.operand == 1:
        of = f"in the derivative of `{name}` by the denominator"
        yield Slip("missing_factor", f"the numerator is missing {of}", lambda o: -o.arriving / o.z**2)
        yield Slip("missing_factor", f"the denominator is not squared {of}", lambda o: -o.arriving * o.other / o.z)
        yield Slip("missing_factor", f"the denominator is missing {of}", lambda o: -o.arriving * o.other)
        return
    masks = not divides and bool(np.isin(here.other, (0, 1)).all() and (here.other == 0).any())
    kind: Kind = "mask" if masks else "missing_factor"
    what = "divided by the denominator" if divides else "multiplied by the other factor"
    factor = "the mask" if masks else "the denominator" if divides else "the other factor"
    yield Slip(kind, f"the gradient of a factor of `{name}` is not {what}" + ", the mask" * masks, handed_on)
    text = f"the gradient of a factor of `{name}` is multiplied by the factor itself"
    yield Slip("missing_factor", text, lambda o: o.arriving * o.z)
    power = -1.0 if divides else 1.0
    with_power = f"{factor} of `{name}` is applied twice", f"{factor} of `{name}` is applied the wrong way round"
    yield Slip(kind, with_power[0], lambda o: o.arriving * o.other ** (2 * power))
    yield Slip(kind, with_power[1], lambda o: o.arriving * o.other**-power)
    for i, path in enumerate(here.paths):
        if here.point[i].shape == here.other.shape:
            text = f"the gradient of a factor of `{name}` is multiplied by {path or 'the argument'}, not by the other"
            yield Slip("missing_factor", text, lambda o, i=i: o.arriving * o.point[i])


SLIPS = Slips(("mask", "missing_factor"), _of_products)
