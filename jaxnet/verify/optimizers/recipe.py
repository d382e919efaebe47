"""One update rule in which every point that conventions differ on is a choice, run in NumPy float64.

Adam, RMSProp, momentum and their kin are one recipe with other choices, and so are the mistakes people make with them.
"""

from typing import Literal, NamedTuple

import numpy as np

from jaxnet.verify.engine.precision import Floats


class Recipe(NamedTuple):
    """An elementwise update rule. The defaults are gradient descent.

    In step t = 1, 2, ... of g, with θ before the step:

    m := β₁m + (1 - β₁)g,  v := β₂v + (1 - β₂)g²,  m̂ = m/(1 - β₁ᵗ),  v̂ = v/(1 - β₂ᵗ)
    d = m̂/(√(v̂ + ε_root) + ε) + λθ,  u := β₃u + αd,  θ := θ - u

    Attributes:
        rate: α at the counts -1, 0, 1, ... of finished steps; three more than there are steps.
        rate_at: where α is: on the direction, on the gradient before it enters the moment, on what leaves the trail.
        rate_step: how many steps early (+1) or late (-1) a schedule is read; None where it stays at its start, "held"
            where it is late and its first rate is used twice.
        first: what m is: an average, one with "exchanged" weights (1 - β)m + βg, a sum βm + g, or nothing, which
            leaves g.
        second: what v is: an average, one with "exchanged" weights, a "decayed sum" βv + g², a sum v + g², a maximum
            max(βv, |g| + ε), or nothing.
        of: what v is made of: g², |g|, m² or (g - m)².
        b1: β₁.
        b2: β₂.
        eps: ε.
        eps_root: ε_root.
        initial: v before the first step.
        correct_first: whether m is divided by 1 - β₁ᵗ.
        correct_second: whether v is divided by 1 - β₂ᵗ.
        corrected_as: whether the moments are "divided" by that or "multiplied", or divided by its "complement" βᵗ.
        counted: how much the t of the corrections is ahead of the step; None where it is 1 for ever, "every other"
            where it counts every other step.
        corrected_by: which rate v is corrected with.
        kept: whether the moments are kept as they are, or corrected, to be corrected again, or not at all.
        begins: whether the moments begin with "zeros", or "whole" with the first g and g².
        eps_at: where ε is: "outside" the root, "inside", "squared" inside, "uncorrected" (√v + ε, corrected after),
            "subtracted" outside, or "nowhere".
        eps_in_gradient: whether ε is added to every gradient as well.
        eps_root_at: whether ε_root is added under the "root", or to v in the "state".
        root: whether the root is taken; "multiplied" where it multiplies.
        ahead: Nesterov's form: none, "moment" (the moment formed once more), "corrected" (Dozat's, as Optax corrects
            it), "bare" (βm without the gradient), "subtracted" (g - βm), "scheduled" (Dozat's with his schedule of β₁,
            as PyTorch has it).
        largest: AMSGrad's maximum over the steps: none, of the "corrected" v̂, or of the "uncorrected" v.
        centered: whether the square of g's average, at β₂, is subtracted from v.
        lion: whether the direction is sign(β₁m + (1 - β₁)g), and m an average at β₂.
        signed: whether the sign is taken there.
        sign: whether the sign of any other direction is taken.
        decay: λ.
        decay_at: where λθ is added: to the "direction", to the "gradient", to the "update" (not multiplied by α), to
            that multiplied by the schedule's first α ("start") or by the corrected α√(1 - β₂ᵗ)/(1 - β₁ᵗ) ("corrected"),
            to the direction but of θ - αd ("after"), to the gradient as a factor 1 + λθ ("factor"), or "nowhere".
        trail: β₃.
        trail_ahead: whether the trail is formed once more, as Nesterov's.
        stale: whether the direction reads the "first", "second" or "both" moments from before the step; "fresh" is
            Lion's reading the moment from after it.
        ascends: whether θ := θ + u.
        late: whether the update is that of the step before.
    """

    rate: Floats
    rate_at: Literal["direction", "gradient", "trail"] = "direction"
    rate_step: int | Literal["held"] | None = 0
    first: Literal["nothing", "average", "exchanged", "sum"] = "nothing"
    second: Literal["nothing", "average", "exchanged", "decayed sum", "sum", "maximum"] = "nothing"
    of: Literal["g²", "|g|", "m²", "(g - m)²"] = "g²"
    b1: float = 0.0
    b2: float = 0.0
    eps: float = 0.0
    eps_root: float = 0.0
    initial: float = 0.0
    correct_first: bool = False
    correct_second: bool = False
    corrected_as: Literal["divided", "multiplied", "complement"] = "divided"
    counted: int | Literal["every other"] | None = 0
    corrected_by: Literal["b2", "b1"] = "b2"
    kept: Literal["plain", "corrected", "not"] = "plain"
    begins: Literal["zeros", "whole"] = "zeros"
    eps_at: Literal["outside", "inside", "squared", "uncorrected", "subtracted", "nowhere"] = "outside"
    eps_in_gradient: bool = False
    eps_root_at: Literal["root", "state"] = "root"
    root: bool | Literal["multiplied"] = True
    ahead: Literal["no", "moment", "corrected", "bare", "subtracted", "scheduled"] = "no"
    largest: Literal["no", "corrected", "uncorrected"] = "no"
    centered: bool = False
    lion: bool = False
    signed: bool = True
    sign: bool = False
    decay: float = 0.0
    decay_at: Literal["direction", "gradient", "factor", "update", "start", "corrected", "after", "nowhere"] = (
        "direction"
    )
    trail: float = 0.0
    trail_ahead: bool = False
    stale: Literal["no", "first", "second", "both", "fresh"] = "no"
    ascends: bool = False
    late: bool = False


def simulate(recipe: Recipe, gradients: Floats, parameters: Floats) -> Floats:
    """The updates, one a row, for rows of gradients and of the parameters before each step.

    Numbers of the recipe may be arrays of many values, of shape (values, 1); so are the updates then.
    """
    r = recipe
    numbers = (r.rate[0], r.b1, r.b2, r.eps, r.eps_root, r.initial, r.decay, r.trail)
    shape = np.broadcast_shapes(gradients[0].shape, *map(np.shape, numbers))
    m, v = np.zeros(shape), np.broadcast_to(np.asarray(r.initial, float), shape)
    mean, largest, trail, before = (np.zeros(shape) for _ in range(4))
    updates = np.empty((len(gradients), *shape))
    with np.errstate(all="ignore"):
        for step, (g, theta) in enumerate(zip(gradients, parameters, strict=True)):
            t = _counted(r, step)
            alpha = r.rate[1 + _count(r, step)]
            if r.decay_at == "gradient":
                g = g + r.decay * theta
            elif r.decay_at == "factor":
                g = g * (1 + r.decay * theta)
            if r.eps_in_gradient:
                g = g + r.eps
            if r.rate_at == "gradient":
                g = alpha * g
            m_before, v_before = m, v
            m, v = _moments(r, m, v, g, step)
            mean = r.b2 * mean + (1 - r.b2) * g
            m_read = m_before if r.stale in ("first", "both") else m
            v_read = v_before if r.stale in ("second", "both") else v
            d = _numerator(r, m_read, m if r.stale == "fresh" else m_before, g, t)
            if r.second != "nothing":
                scale, largest = _denominator(r, v_read, mean, largest, t)
                d = d * scale if r.root == "multiplied" else d / scale
            d = np.sign(d) if r.sign else d
            if r.decay_at in ("direction", "after"):
                d = d + r.decay * (theta if r.decay_at == "direction" else theta - alpha * d)
            if r.kept == "corrected":
                m, v = m / _correction(r, r.correct_first, r.b1, t), v / _correction(r, r.correct_second, r.b2, t)
            elif r.kept == "not":
                m, v = m_before, v_before
            update = alpha * d if r.rate_at == "direction" else d
            if np.any(r.trail):
                trail = r.trail * trail + update
                update = r.trail * trail + update if r.trail_ahead else trail
            if r.rate_at == "trail":
                update = alpha * update
            update = update + r.decay * theta * _of_decay(r, alpha, t)
            if r.late:
                update, before = before, update
            updates[step] = update if r.ascends else -update
    return updates


def _counted(r: Recipe, step: int) -> int:
    """The t of the corrections after so many finished steps."""
    if r.counted == "every other":
        return step // 2 + 1
    return 1 if r.counted is None else step + 1 + r.counted


def _of_decay(r: Recipe, alpha: Floats, t: int) -> Floats:
    """What multiplies weight decay that is added to the update."""
    if r.decay_at == "corrected":
        return alpha * np.sqrt(1 - np.float64(r.b2) ** t) / (1 - np.float64(r.b1) ** t)
    return {"update": 1.0, "start": r.rate[1]}.get(r.decay_at, 0.0)


def _moments(r: Recipe, m: Floats, v: Floats, g: Floats, step: int) -> tuple[Floats, Floats]:
    if r.begins == "whole" and step == 0:
        return g, np.square(g)
    m = _first(r, m, g)
    v = _second(r, v, g, m)
    return m, v + r.eps_root if r.eps_root_at == "state" else v


def _count(r: Recipe, step: int) -> int:
    """The count that the schedule is read with after so many finished steps."""
    if r.rate_step == "held":
        return max(step - 1, 0)
    return 0 if r.rate_step is None else step + r.rate_step


def _first(r: Recipe, m: Floats, g: Floats) -> Floats:
    if r.lion:
        return r.b2 * m + (1 - r.b2) * g
    match r.first:
        case "nothing":
            return g
        case "average":
            return r.b1 * m + (1 - r.b1) * g
        case "exchanged":
            return (1 - r.b1) * m + r.b1 * g
        case "sum":
            return r.b1 * m + g


def _second(r: Recipe, v: Floats, g: Floats, m: Floats) -> Floats:
    match r.second:
        case "nothing":
            return v
        case "maximum":
            return np.maximum(r.b2 * v, np.abs(g) + (r.eps if r.eps_at == "outside" else 0))
        case "average":
            return r.b2 * v + (1 - r.b2) * _averaged(r, g, m)
        case "exchanged":
            return (1 - r.b2) * v + r.b2 * _averaged(r, g, m)
        case "decayed sum":
            return r.b2 * v + _averaged(r, g, m)
        case "sum":
            return v + _averaged(r, g, m)


def _averaged(r: Recipe, g: Floats, m: Floats) -> Floats:
    """What v is made of."""
    match r.of:
        case "g²":
            return np.square(g)
        case "|g|":
            return np.abs(g)
        case "m²":
            return np.square(m)
        case "(g - m)²":
            return np.square(g - m)


def _numerator(r: Recipe, m: Floats, m_before: Floats, g: Floats, t: int) -> Floats:
    if r.lion:
        mixed = r.b1 * m_before + (1 - r.b1) * g
        return np.sign(mixed) if r.signed else mixed
    one_step, next_step = (_correction(r, r.correct_first, r.b1, count) for count in (t, t + 1))
    fresh = g if r.first == "sum" else (1 - r.b1) * g
    if r.ahead == "moment":
        return (r.b1 * m + fresh) / one_step
    if r.ahead == "corrected":
        return r.b1 * m / next_step + fresh / one_step
    if r.ahead == "bare":
        return r.b1 * m / one_step
    if r.ahead == "subtracted":
        return g - r.b1 * m
    if r.ahead == "scheduled":
        mu, mu_next = (r.b1 * (1 - 0.5 * 0.96 ** (0.004 * step)) for step in (t, t + 1))
        product = np.prod(1 - 0.5 * 0.96 ** (0.004 * np.arange(1, t + 1))) * r.b1**t
        return mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
    return m / one_step


def _denominator(r: Recipe, v: Floats, mean: Floats, largest: Floats, t: int) -> tuple[Floats, Floats]:
    """√(v̂ + ε_root) + ε in one of its forms, and the largest v so far."""
    if r.second == "maximum":
        return v + (r.eps if r.eps_at == "uncorrected" else 0), largest
    correction = _correction(r, r.correct_second, getattr(r, r.corrected_by), t)
    if r.centered:
        v = v - np.square(mean)
    if r.largest == "uncorrected":
        v = largest = np.maximum(largest, v)
    hat = v / correction
    if r.largest == "corrected":
        hat = largest = np.maximum(largest, hat)
    hat = hat + (r.eps_root if r.eps_root_at == "root" else 0)
    root = np.sqrt if r.root else np.asarray
    if r.eps_at == "inside":
        return root(hat + r.eps), largest
    if r.eps_at == "squared":
        return root(hat + r.eps**2), largest
    if r.eps_at == "uncorrected":
        return (root(v + r.eps_root) + r.eps) / root(np.asarray(correction)), largest
    return root(hat) + {"outside": r.eps, "subtracted": -r.eps, "nowhere": 0}[r.eps_at], largest


def _correction(r: Recipe, corrected: bool, beta: Floats, t: int) -> Floats:
    """What a moment is divided by."""
    if not corrected:
        return 1.0
    power = np.asarray(beta**t)
    if r.corrected_as == "complement":
        return power
    return 1 - power if r.corrected_as == "divided" else 1 / (1 - power)
