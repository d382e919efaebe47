"""Linear maps that are applied where their transposes belong."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.precision import Floats, in_float64
from jaxnet.verify.engine.program import compute
from jaxnet.verify.mistakes.slips.local import Local, Slip, Slips

LINEAR = {"dot_general", "triangular_solve", "custom_linear_solve", "cumsum", "conv_general_dilated", "fft"}


def _of_linear_maps(here: Local) -> Iterator[Slip]:
    operation = here.operation
    if operation.primitive in LINEAR and operation.repeats == 1 and here.z.shape == here.a.shape:
        yield Slip("transpose", f"`{operation.name}` itself is applied where its transpose belongs", _applied_again)


def _applied_again(here: Local) -> Floats:
    """The operation applied to the cotangent that arrives, which is right for symmetric maps alone."""
    equation, operand = here.operation.equation, here.operation.operand
    inputs = [here.arriving if i == operand else value for i, value in enumerate(here.others)]
    with in_float64():
        return np.asarray(compute(equation, [jnp.asarray(value) for value in inputs])[0])


SLIPS = Slips(("transpose",), _of_linear_maps)
