"""Windows on the axes of space: how long, how far apart, and how many of them fit."""

from typing import Any, NamedTuple

from jax import Array, lax

from jaxnet.arguments import positive_integer

Padding = str | tuple[tuple[int, int], ...]
MOST_AXES = 3


def one_for_each(name: str, value: Any, axes: int) -> tuple[int, ...]:
    """A number for each axis, of one number or of as many."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * axes
    if len(values) != axes or not 1 <= axes <= MOST_AXES:
        raise ValueError(f"{name} needs a number for each of 1 to {MOST_AXES} axes of space, got {value!r}")
    return tuple(positive_integer(name, number) for number in values)


def as_padding(padding: Any, axes: int) -> Padding:
    """ "SAME", "VALID" or (low, high) for each axis."""
    if padding in ("SAME", "VALID"):
        return padding
    try:
        pairs = tuple((int(low), int(high)) for low, high in padding)
    except (TypeError, ValueError):
        pairs = ()
    if len(pairs) != axes or any(length < 0 for pair in pairs for length in pair):
        raise ValueError(
            f'padding must be "SAME", "VALID" or a pair (low, high) for each of {axes} axes, got {padding!r}'
        )
    return pairs


class Windows(NamedTuple):
    """Where windows lie. Place p covers the inputs s p + d k - low, with k from 0 to below the window's length.

    Attributes:
        window: its length along each axis of space.
        strides: s, from place to place.
        dilation: d, from input to input.
        padding: what decides `low`, and how many places there are.
    """

    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Padding

    def __repr__(self) -> str:
        """The arguments that make it."""
        parts = [repr(self.window)]
        for name in ("strides", "dilation"):
            values = getattr(self, name)
            parts += [f"{name}={values}"] if set(values) != {1} else []
        return ", ".join([*parts, f"padding={self.padding!r}"])

    @property
    def spans(self) -> tuple[int, ...]:
        """From the first input of a window to its last, both counted."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.window, self.dilation, strict=True))

    def split(self, name: str, a: Array, n: int | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The axes of the batch and those of space.

        Raises:
            ValueError: if there are too few, the last axis is no n, or a window does not fit.
        """
        axes = len(self.window)
        if a.ndim <= axes or (n is not None and a.shape[-1] != n):
            wanted = (*("length",) * axes, "n" if n is None else n)
            raise ValueError(f"{name} needs inputs of shape (..., {', '.join(map(str, wanted))}), got {a.shape}")
        space = a.shape[-1 - axes : -1]
        if any(length + sum(pad) < span for length, pad, span in zip(space, self.pads(space), self.spans, strict=True)):
            raise ValueError(f"{name}: a window of {self.spans} does not fit into inputs of shape {a.shape}")
        return a.shape[: -1 - axes], space

    def pads(self, space: tuple[int, ...]) -> list[tuple[int, int]]:
        """(low, high) for each axis."""
        if isinstance(self.padding, tuple):
            return list(self.padding)
        return [(low, high) for low, high in lax.padtype_to_pads(space, self.spans, self.strides, self.padding)]

    def pads_of_adjoint(self, space: tuple[int, ...], places: tuple[int, ...]) -> list[tuple[int, int]]:
        """Around the outputs, spread out by the strides, so that the turned window has the inputs for places."""
        return [
            (span - 1 - low, length + low - (stride * (count - 1) + 1))
            for span, (low, _), length, stride, count in self._axes(space, places)
        ]

    def pads_of_window(self, space: tuple[int, ...], places: tuple[int, ...]) -> list[tuple[int, int]]:
        """Around the inputs, so that the outputs, spread out by the strides, have the window for places."""
        return [
            (low, span + stride * (count - 1) - length - low)
            for span, (low, _), length, stride, count in self._axes(space, places)
        ]

    def _axes(self, space: tuple[int, ...], places: tuple[int, ...]) -> Any:
        return zip(self.spans, self.pads(space), space, self.strides, places, strict=True)
