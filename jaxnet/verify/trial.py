"""How a candidate is judged: in which dtypes it and the truth are computed, and the comparison at a place."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxnet.verify import points, taylor
from jaxnet.verify.candidate import CandidateError, by_candidate
from jaxnet.verify.comparison import Comparison, limit_of
from jaxnet.verify.points import Place
from jaxnet.verify.problem import Floats, Problem, draws, has_float64, spacing
from jaxnet.verify.reference import DOUBLE, outputs_alone, outputs_and_gradients, stacked, truth


class Trial(NamedTuple):
    """How the candidate is judged.

    Attributes:
        problem: the function and the candidate.
        generator: of everything random.
        native: whether the candidate runs in the user's dtypes, not in float64.
        exact: whether the function runs in float64.
        traced: whether the candidate is compiled.
        differentiable: whether autodiff can differentiate the function.
        unit: one unit in the last place of what the candidate computes in.
    """

    problem: Problem
    generator: np.random.Generator
    native: bool
    exact: bool
    traced: bool
    differentiable: bool
    unit: float

    def compare(self, place: Place) -> Comparison:
        """The candidate beside the truth at a place."""
        problem = self.problem
        if self.native:
            place = points.rounded(problem, place)
        if self.differentiable:
            units = [self.unit] * len(place.point)
            exact = truth(
                problem,
                place.point,
                place.cotangent,
                self.generator,
                at_inputs=units,
                inside=self.unit,
                float64=self.exact,
            )
        else:
            exact = taylor.by_differences(problem, place, self.generator)
        answer = by_candidate(problem, place.point, place.cotangent, traced=self.traced, float64=not self.native)
        if self.native:
            exact = exact._replace(noise=list(map(_held, exact.noise, exact.gradient, problem.differentiated)))
        return Comparison(place, exact, answer, limit_of(self.unit))


def _held(noise: Floats, gradient: Floats, leaf: Any) -> Floats:
    """The noise with what underflows in the leaf's dtype; unknown where the right value does not fit it."""
    limits = jnp.finfo(leaf.dtype)
    return np.where(np.abs(gradient) < 0.5 * float(limits.max), noise + float(limits.tiny), np.nan)


def prepare(
    problem: Problem, generator: np.random.Generator, given: Place, *, native: bool, traced: bool
) -> tuple[Trial, list[str]]:
    """How the candidate can be judged: in float64 where function and candidate run in it, and notes where not.

    Raises:
        ValueError: if the function can neither run in float64 nor be differentiated by JAX.
    """
    notes: list[str] = []
    trial = Trial(problem, generator, native, True, traced, True, own_unit(problem) if native else DOUBLE)
    own = trial._replace(native=True, exact=False, unit=own_unit(problem))
    if draws(problem):
        return own, ["in float64 the function would draw other random numbers: judged in the arguments' dtypes alone"]
    error = _autodiff_fails(trial, given)
    if error is not None:
        if _evaluates(problem, given):
            trial = trial._replace(differentiable=False)
            notes.append(f"autodiff cannot differentiate the function ({error}): central differences stand in for it")
        elif _autodiff_fails(own, given) is None:
            return own, [_not_in_float64("function", error)]
        else:
            raise ValueError(
                f"the function can neither run in float64 nor be differentiated by JAX ({error}): "
                "give a plain JAX function as the reference"
            )
    if not native:
        try:
            by_candidate(problem, points.given(problem), given.cotangent, traced=traced, float64=True)
        except CandidateError as error:
            trial = trial._replace(native=True, unit=own_unit(problem))
            notes.append(_not_in_float64("candidate", type(error.__cause__).__name__))
    return trial, notes


def _not_in_float64(what: str, error: str) -> str:
    note = f"the {what} does not run in float64 ({error}): judged in the arguments' dtypes alone"
    # JAX keeps a NumPy array that a program closes over in the dtype it had without float64.
    remedy = "; NumPy arrays of float64 that it closes over may cause this: give them as arguments"
    return note if has_float64() else note + remedy


def own_unit(problem: Problem) -> float:
    """One unit in the last place of the narrowest of the user's dtypes."""
    return max(spacing(leaf.dtype) for leaf in problem.differentiated)


def _autodiff_fails(trial: Trial, place: Place) -> str | None:
    """What autodiff of the function raises, if it does."""
    try:
        outputs_and_gradients(trial.problem, stacked(place.point), stacked(place.cotangent), float64=trial.exact)
    except Exception as error:  # whatever it is, the caller turns to another way of judging and says so
        return type(error).__name__
    return None


def _evaluates(problem: Problem, place: Place) -> bool:
    try:
        outputs_alone(problem, stacked(place.point))
    except Exception:  # as above
        return False
    return True
