"""Matrix products whose gradient is built with something else than the other factor."""

from collections.abc import Iterator

import numpy as np

from jaxnet.verify.mistakes.slips.local import Local, Slip, Slips, product_with


def _of_matrix_products(here: Local) -> Iterator[Slip]:
    """A product whose gradient is built with something else than the other operand."""
    if here.operation.primitive != "dot_general" or here.operation.repeats > 1:
        return
    for activation in here.activations:
        a = here.seen[activation.result]
        if a.shape != here.other.shape:
            continue
        if np.array_equal(a, here.other):
            text = "the gradient of a product is built with the activation's input z in place of its output a"
            yield Slip("activation", text, lambda o, s=activation.site: product_with(o, np.asarray(o.seen[s])))
        else:
            text = f"the gradient of a product is built with the result of another `{activation.name}`"
            yield Slip("missing_factor", text, lambda o, s=activation.result: product_with(o, np.asarray(o.seen[s])))
    for i, path in enumerate(here.paths):
        text = f"the gradient of a product is built with {path or 'the argument'}, not with its other factor"
        for turned in (np.asarray, np.transpose) if here.point[i].ndim == 2 else ():
            leaf, back = turned(here.point[i]), turned(np.transpose(here.point[i]))
            if leaf.shape != here.other.shape or np.array_equal(leaf, here.other):
                continue
            if np.array_equal(back, here.other):
                said = "the backward pass multiplies by W where Wᵀ belongs (or the other way round)"
                yield Slip("transpose", said, lambda o, i=i, t=turned: product_with(o, t(o.point[i])))
            else:
                yield Slip("missing_factor", text, lambda o, i=i, t=turned: product_with(o, t(o.point[i])))


SLIPS = Slips(("activation", "missing_factor", "transpose"), _of_matrix_products)
