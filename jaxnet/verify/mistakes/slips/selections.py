"""Selections by a condition: its mask is left out, or inverted."""

from collections.abc import Iterator

from jaxnet.verify.mistakes.slips.local import Local, Slip, Slips, handed_on


def _of_selections(here: Local) -> Iterator[Slip]:
    if here.operation.primitive != "select_n":
        return
    name = here.operation.name
    yield Slip("mask", f"the mask of `{name}` is left out: what was not selected gets a gradient", handed_on)
    yield Slip("mask", f"the mask of `{name}` is inverted", lambda o: o.arriving - o.right)


SLIPS = Slips(("mask",), _of_selections)
