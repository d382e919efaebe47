"""The numbers that a program holds in a dtype narrower than float64: each is known to half a unit of its dtype."""

import math
import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnet.verify.engine.precision import DOUBLE, Floats, is_float, spacing

SINGLE = np.dtype(np.float32)
PART = 1 / 64


def widen(value: Any) -> Any:
    """A float in float64, anything else as it is."""
    return jnp.asarray(value, jnp.float64) if is_float(value) else value


def is_of_float32(number: float) -> bool:
    """Whether a number of a program in float64 was rounded to float32 before: one that uses all its bits, and no more.

    So stands np.float32(0.1) in it, and not 0.1, 0.5 or 1000.
    """
    if not math.isfinite(number) or _is_short(number):
        return False
    bits = math.frexp(number)[0] * 2**24
    return bits == int(bits) and int(bits) % 2**8 != 0


def meant(value: Any, side: int, dtype: Any = None) -> Any:
    """A number or an array that a program holds, in float64: of all that its dtype rounds to it, what somebody wrote.

    A number that has a short decimal among them is that decimal. Others, as √(2/π), and arrays are known to half a unit
    of their dtype, and moved by that.

    Args:
        value: what the program holds.
        side: to which it is moved, the same for equal values, each up or down; 0 for none; a negative one moves it the
            same way as its opposite, `PART` so far.
        dtype: of the value; its own if None.
    """
    dtype = getattr(value, "dtype", np.float64) if dtype is None else dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        return value
    number = float(value) if np.ndim(value) == 0 else None
    if number is not None and spacing(dtype) <= DOUBLE and is_of_float32(number):
        dtype = SINGLE
    if spacing(dtype) <= DOUBLE or (number is not None and _is_short(number)):
        return widen(jnp.asarray(value))
    if number is not None:
        short = float(f"{number:.{int(-np.log10(spacing(dtype)))}g}")
        if float(np.asarray(short, dtype)) == number:
            return jnp.asarray(short, jnp.float64)
    exact = np.asarray(value, np.float64)
    return jnp.asarray(exact * (1 + _way(exact, side) * spacing(dtype) / 2) if side else exact)


def _is_short(number: float) -> bool:
    return float(f"{number:.6g}") == number


def _way(exact: Floats, side: int) -> Floats:
    """-1 or 1 for each element, or a part of it, by its value and the side."""
    generator = np.random.default_rng(zlib.crc32(exact.tobytes(), abs(side)))
    return generator.choice((-1.0, 1.0), exact.shape) * (PART if side < 0 else 1)
