"""How many planted mistakes verification finds and how many right rules it passes, beside the usual gradient checks.

Every judge sees the same rules at the same points: `jaxnet.verify`, `jax.test_util.check_grads`, an element-wise
comparison with autodiff by `np.allclose`, and finite differences against the threshold of the course.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from experiments.experiment import Measurement, Options, Result, Table, Track, at_least, at_most
from experiments.figures import BLUE, COLOURS, GREY, MARKERS, RED
from experiments.specimens.gradients.mistakes import MISTAKES
from experiments.specimens.gradients.right import RIGHT_RULES
from experiments.specimens.specimen import Specimen
from jaxnet.verify import Report, verify_vjp
from jaxnet.verify.engine.truth import UNITS_IN_FLOAT64

CLAIM = (
    "Whatever the size of the weights, jaxnet.verify rejects every planted mistake and passes every right rule; it "
    "names at least nine mistakes in ten and misnames at most one in fifty."
)

SCALES = (0.01, 0.1, 1.0, 10.0)
STEP, THRESHOLD = 1e-7, 1e-7
JAXNET, ALLCLOSE, CENTRAL, ONE_SIDED = "jaxnet.verify", "np.allclose", "central differences", "one-sided differences"
CHECK_GRADS, FORWARD, REVERSE = "check_grads", "check_grads, fwd alone", "check_grads, rev alone"
JUDGES = (JAXNET, CHECK_GRADS, FORWARD, REVERSE, ALLCLOSE, CENTRAL, ONE_SIDED)
DRAWN = (JAXNET, CHECK_GRADS, ALLCLOSE, CENTRAL, ONE_SIDED)
# Mistakes whose size is no multiple of rounding: they are not in the numbers, or not in float64.
WITHOUT_SIZE = ("structure", "shape", "dtype", "impure", "kink", "non_finite", "precision")


class Case(NamedTuple):
    """A specimen at one point.

    Attributes:
        specimen: the function and the rule.
        args: the point.
        cotangent: a random cotangent of the outputs, in their own dtypes.
        key: for the judge that draws its own points.
    """

    specimen: Specimen
    args: tuple
    cotangent: Any
    key: jax.Array

    @property
    def chosen(self) -> tuple[int, ...]:
        """The arguments that are differentiated: those that hold floats."""
        return tuple(i for i, arg in enumerate(self.args) if jax.tree.leaves(arg) and all(_floats(arg)))

    def cast(self, dtype: Any) -> "Case":
        """The case in another dtype; NumPy's arrays stay NumPy's, integers stay integers."""

        def convert(leaf: Any) -> Any:
            return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        return self._replace(args=jax.tree.map(convert, self.args), cotangent=jax.tree.map(convert, self.cotangent))

    def untouched(self) -> "Case":
        """A copy of its own, for a judge of rules that overwrite their arguments."""
        return self._replace(args=jax.tree.map(lambda a: a.copy() if isinstance(a, np.ndarray) else a, self.args))


def _floats(tree: Any) -> list[bool]:
    return [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(tree)]


def at_point(specimen: Specimen, scale: float, key: jax.Array) -> Case:
    """The specimen at a random point with weights of this scale."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    args = specimen.case.arguments(generator, scale)

    def normal(leaf: Any) -> jax.Array:
        return jnp.asarray(generator.standard_normal(leaf.shape), leaf.dtype)

    return Case(specimen, args, jax.tree.map(normal, jax.eval_shape(specimen.case.function, *args)), key)


# The other judges: each says whether it objects, and None where it cannot judge ---------------------------------------


def _raises(check: Callable[[], Any]) -> bool:
    """Whether the check, or the rule that it runs, raises anything."""
    try:
        check()
    except Exception:
        return True
    return False


def by_reverse_mode(case: Case) -> bool:
    """`check_grads` of a function whose `jax.custom_vjp` is the rule."""
    function, backward = case.specimen.case.function, case.specimen.case.backward

    @jax.custom_vjp
    def with_rule(*args: Any) -> Any:
        return function(*args)

    with_rule.defvjp(lambda *args: (function(*args), args), backward)

    def check() -> None:
        check_grads(lambda *chosen: with_rule(*_replaced(case, chosen)), _chosen(case), order=1, modes=("rev",))

    return _raises(check)


def by_forward_mode(case: Case) -> bool | None:
    """`check_grads` of a function whose `jax.custom_jvp` is the rule, transposed; None if it cannot be transposed.

    What a rule adds without regard to the cotangent is lost in transposition, so that forward mode cannot see it.
    """
    function, backward = case.specimen.case.function, case.specimen.case.backward

    @jax.custom_jvp
    def with_rule(*chosen: Any) -> Any:
        return function(*_replaced(case, chosen))

    @with_rule.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple:
        args = _replaced(case, primals)
        outputs = function(*args)

        def pulled_back(cotangent: Any) -> tuple:
            return tuple(_given_or_zero(backward(args, cotangent), args, i) for i in case.chosen)

        return outputs, jax.linear_transpose(pulled_back, outputs)(tangents)[0]

    chosen = _chosen(case)
    if _raises(lambda: jax.jvp(with_rule, chosen, chosen)):
        return None
    return _raises(lambda: check_grads(with_rule, chosen, order=1, modes=("fwd",)))


def by_allclose(case: Case) -> bool:
    """`np.allclose` at its defaults against autodiff, leaf by leaf, in the arguments' own dtypes."""

    def close(found: Any, expected: Any) -> bool:
        found, expected = np.asarray(found), np.asarray(expected)
        return found.shape == expected.shape and np.allclose(found.astype(float), expected.astype(float))

    def check() -> None:
        answer = case.specimen.case.backward(case.args, case.cotangent)
        expected = jax.vjp(case.specimen.case.function, *case.args)[1](case.cotangent)
        for i in case.chosen:
            agreement = jax.tree.map(close, _given_or_zero(answer, case.args, i), expected[i])
            assert all(jax.tree.leaves(agreement))

    return _raises(check)


def by_differences(case: Case) -> tuple[bool, bool]:
    """The course's gradient check in float64, by central and by one-sided differences.

    The gradient of ⟨cotangent, f⟩ as one vector g must satisfy ‖g - d‖ ≤ 1e-7 (‖g‖ + ‖d‖), for differences d of step
    1e-7. NaN counts as an objection, and both being exactly 0 as none.
    """
    with jax.enable_x64(True):
        case = case.cast(np.float64)
        try:
            answer = case.specimen.case.backward(case.args, case.cotangent)
            leaves = jax.tree.leaves([_given_or_zero(answer, case.args, i) for i in case.chosen])
            gradient = np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in leaves])
            above, below, value = map(np.asarray, _values(case.specimen.case.function)(*case[1:3], case.chosen))
            central, one_sided = (
                _relative(gradient, slopes) for slopes in ((above - below) / (2 * STEP), (above - value) / STEP)
            )
        except Exception:
            return True, True
    return not central <= THRESHOLD, not one_sided <= THRESHOLD


def _relative(gradient: np.ndarray, slopes: np.ndarray) -> float:
    size = np.linalg.norm(gradient) + np.linalg.norm(slopes)
    return float(np.linalg.norm(gradient - slopes) / size) if size else 0.0


@functools.cache
def _values(function: Callable[..., Any]) -> Callable[..., Any]:
    """⟨cotangent, f⟩ one step above and one below the point in every coordinate, and at it; compiled once."""

    @functools.partial(jax.jit, static_argnums=2)
    def values(args: tuple, cotangent: Any, chosen: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        vector, restored = ravel_pytree([args[i] for i in chosen])

        def value(vector: jax.Array) -> jax.Array:
            moved = dict(zip(chosen, restored(vector), strict=True))
            outputs = function(*(moved.get(i, arg) for i, arg in enumerate(args)))
            products = jax.tree.map(jnp.vdot, cotangent, outputs)
            return sum(jax.tree.leaves(products), start=jnp.zeros(()))

        steps = STEP * jnp.eye(len(vector))
        return jax.vmap(value)(vector[None] + steps), jax.vmap(value)(vector[None] - steps), value(vector)

    return values


def _chosen(case: Case) -> tuple:
    return tuple(case.args[i] for i in case.chosen)


def _replaced(case: Case, chosen: tuple) -> tuple:
    """All arguments, with others for those that are differentiated."""
    others = dict(zip(case.chosen, chosen, strict=True))
    return tuple(others.get(i, arg) for i, arg in enumerate(case.args))


def _given_or_zero(answer: Any, args: tuple, i: int) -> Any:
    """The entry for an argument, with zeros for None, which stands for them everywhere in JAX."""
    return jax.tree.map(jnp.zeros_like, args[i]) if answer[i] is None else answer[i]


def by_peers(case: Case) -> dict[str, bool | None]:
    """What the judges other than `jaxnet.verify` say: whether they object."""
    forward, reverse = by_forward_mode(case.untouched()), by_reverse_mode(case.untouched())
    central, one_sided = by_differences(case.untouched())
    return {
        CHECK_GRADS: bool(forward) or reverse,
        FORWARD: forward,
        REVERSE: reverse,
        ALLCLOSE: by_allclose(case.untouched()),
        CENTRAL: central,
        ONE_SIDED: one_sided,
    }


# The measurement -----------------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What the judges said of a case.

    Attributes:
        specimen: which was judged.
        scale: at which scale of the weights.
        objects: which judges object; None for one that cannot judge.
        named: the kind of the first finding; None where nothing was found.
        units: by how many units of rounding the rule is off; NaN where that means nothing.
    """

    specimen: Specimen
    scale: float
    objects: dict[str, bool | None]
    named: str | None
    units: float


def _judge(specimen: Specimen, scale: float, key: jax.Array) -> Verdict:
    point = at_point(specimen, scale, key)
    args = point.untouched().args
    report = verify_vjp(specimen.case.function, specimen.case.backward, *args, key=key)
    objects = {JAXNET: not report.passed, **by_peers(point)}
    named = report.findings[0].kind if report.findings else None
    return Verdict(specimen, scale, objects, named, _units(specimen, report))


def _units(specimen: Specimen, report: Report) -> float:
    """The largest error of a right rule, or the largest in the mildest wrong leaf, in units of rounding.

    NaN for rules at kinks, which follow one convention or another, and for mistakes that have no size in float64.
    """
    if specimen.kind is None:
        at_kinks = any("kink" in note for note in report.notes)
        return math.nan if report.findings or at_kinks else max(report.leaves.values(), default=math.nan)
    if specimen.kind in WITHOUT_SIZE:
        return math.nan
    sizes = [report.leaves.get(f.path, math.inf) for f in report.findings if f.kind not in WITHOUT_SIZE]
    return min((units for units in sizes if math.isfinite(units)), default=math.nan)


def _share(judge: str, verdicts: list[Verdict]) -> float:
    """The share of the verdicts in which the judge objects, of those in which it can judge; NaN for none."""
    objects = [v.objects[judge] for v in verdicts if v.objects[judge] is not None]
    return sum(map(bool, objects)) / len(objects) if objects else math.nan


def run(options: Options, track: Track) -> Result:
    """Every judge's verdict on every specimen, at every scale of the weights and for every seed."""
    chosen, scales, seeds = slice(None), SCALES, options.seeds
    if options.quick:  # few, but some on which the judges differ
        chosen, scales, seeds = slice(1, None, 24), SCALES[1:3], 1
    keys = [jax.random.fold_in(options.key, seed) for seed in range(seeds)]
    verdicts: list[Verdict] = []
    # Rules may overflow or mix types, and must do so in any process as they do by JAX's defaults.
    with (
        warnings.catch_warnings(action="ignore"),
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for specimen in track([*MISTAKES[chosen], *RIGHT_RULES[chosen]], "specimens"):
            verdicts += [_judge(specimen, scale, key) for scale in scales for key in keys]
    mistakes = [v for v in verdicts if v.specimen.kind is not None]
    right = [v for v in verdicts if v.specimen.kind is None]
    drawn = {
        "scales": list(scales),
        "detected": {j: [_share(j, [v for v in mistakes if v.scale == s]) for s in scales] for j in DRAWN},
        "false_alarms": {j: [_share(j, [v for v in right if v.scale == s]) for s in scales] for j in DRAWN},
        "units_right": [v.units for v in right if not math.isnan(v.units)],
        "units_wrong": [v.units for v in mistakes if not math.isnan(v.units)],
        "limit": UNITS_IN_FLOAT64,
    }
    return Result(_measurements(mistakes, right, drawn), drawn, (_by_judge(mistakes, right), _by_kind(mistakes)))


def _measurements(mistakes: list[Verdict], right: list[Verdict], drawn: dict[str, Any]) -> tuple[Measurement, ...]:
    wrongly = [v for v in mistakes if v.named not in (v.specimen.kind, "unknown", None)]
    return (
        at_least("planted mistakes rejected", _share(JAXNET, mistakes), 1.0),
        at_least("right rules passed", 1 - _share(JAXNET, right), 1.0),
        at_least("planted mistakes diagnosed as planted", _diagnosed(mistakes), 0.9),
        at_most("given a wrong kind", len(wrongly) / len(mistakes), 0.02),
        Measurement("largest error of a right rule, in units of rounding", max(drawn["units_right"], default=math.nan)),
        Measurement("smallest error of a mistake, in units of rounding", min(drawn["units_wrong"], default=math.nan)),
        Measurement("mistakes judged", len(mistakes)),
        Measurement("right rules judged", len(right)),
        *(Measurement(f"{judge}: mistakes rejected", _share(judge, mistakes)) for judge in DRAWN[1:]),
        *(Measurement(f"{judge}: right rules rejected", _share(judge, right)) for judge in DRAWN[1:]),
    )


def _diagnosed(verdicts: list[Verdict]) -> float:
    """The share of mistakes whose kind is named as planted."""
    return sum(v.named == v.specimen.kind for v in verdicts) / len(verdicts)


def _by_judge(mistakes: list[Verdict], right: list[Verdict]) -> Table:
    scales = sorted({v.scale for v in mistakes})

    def row(judge: str) -> tuple[str, ...]:
        detected = [_percent(_share(judge, [v for v in mistakes if v.scale == scale])) for scale in scales]
        judged = sum(v.objects[judge] is not None for v in (*mistakes, *right))
        diagnosed = _percent(_diagnosed(mistakes)) if judge == JAXNET else ""
        return judge, *detected, _percent(_share(judge, right)), diagnosed, f"{judged}"

    title = f"Rejected of {len(mistakes)} mistakes by scale of the weights, and of {len(right)} right rules"
    columns = ("judge", *(f"at {scale:g}" for scale in scales), "false alarms", "diagnosed", "cases judged")
    return Table(title, columns, tuple(map(row, JUDGES)))


def _by_kind(mistakes: list[Verdict]) -> Table:
    def row(kind: str) -> tuple[str, ...]:
        planted = [v for v in mistakes if v.specimen.kind == kind]
        shares = [_percent(_share(judge, planted)) for judge in DRAWN[1:]]
        rejected, diagnosed = _percent(_share(JAXNET, planted)), _percent(_diagnosed(planted))
        return kind, f"{len({v.specimen.name for v in planted})}", rejected, diagnosed, *shares

    kinds = dict.fromkeys(v.specimen.kind for v in mistakes if v.specimen.kind is not None)
    columns = ("kind", "planted", JAXNET, "diagnosed", *DRAWN[1:])
    return Table("Mistakes rejected by kind", columns, tuple(map(row, kinds)))


def _percent(share: float) -> str:
    """A share in percent that says 100 and 0 only where that is exact."""
    if math.isnan(share) or share in (0, 1):
        return "" if math.isnan(share) else f"{share:.0%}"
    return f"{min(max(share, 0.001), 0.999):.1%}"


def plot(result: Result) -> Figure:
    """The shares of mistakes and of right rules that each judge rejects; and how far apart the two are in rounding."""
    canvas = Figure(figsize=(11, 4.8))
    panels = canvas.subplot_mosaic([["detected", "gap"], ["false_alarms", "gap"]], width_ratios=(1.15, 1))
    _draw_shares(panels["detected"], result.drawn, "detected", "Wrong rules rejected: should be all")
    _draw_shares(panels["false_alarms"], result.drawn, "false_alarms", "Right rules rejected: should be none")
    panels["false_alarms"].set_xlabel("scale of the weights")
    _draw_gap(panels["gap"], result.drawn)
    handles, labels = panels["detected"].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=len(DRAWN))
    return canvas


def _draw_shares(panel: Axes, drawn: dict[str, Any], what: str, title: str) -> None:
    """The share by the scale of the weights, one line a judge, the markers side by side where lines coincide."""
    places = np.arange(len(drawn["scales"]))
    for i, (judge, colour, marker) in enumerate(zip(DRAWN, COLOURS, MARKERS, strict=False)):
        order = len(DRAWN) - i + 2  # the first judge on top
        shifted = places + 0.05 * (i - len(DRAWN) // 2)
        panel.plot(shifted, drawn[what][judge], f"{marker}-", color=colour, label=judge, markersize=6, zorder=order)
    shares = np.array(list(drawn[what].values()))
    # A tenth at least, so that shares that are all the same have an axis that can be read.
    low, high = (min(np.nanmin(shares), 0.9), 1.0) if what == "detected" else (0.0, max(np.nanmax(shares), 0.1))
    margin = 0.1 * (high - low)
    panel.set(title=title, ylim=(low - margin, high + margin))
    panel.set_xticks(places, [f"{scale:g}" for scale in drawn["scales"]])
    panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _draw_gap(panel: Axes, drawn: dict[str, Any]) -> None:
    """How many rules are off by how many units of rounding, and where the limit lies between right and wrong."""
    smallest = 1e-3
    units = {name: np.maximum(drawn[f"units_{name}"], smallest) for name in ("right", "wrong")}
    largest = max(np.max(numbers, initial=10 * drawn["limit"]) for numbers in units.values())
    highest = math.ceil(math.log10(largest))
    edges = 10.0 ** np.arange(math.log10(smallest), highest + 1, 0.5)
    for (name, numbers), colour in zip(units.items(), (BLUE, RED), strict=True):
        panel.hist(numbers, edges.tolist(), color=colour, label=f"{name} rules", edgecolor="white", linewidth=0.5)
    panel.axvline(drawn["limit"], color=GREY, linestyle="--", linewidth=1)
    beside: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "color": GREY}
    panel.annotate("limit", (drawn["limit"], 1), (4, -10), **beside)
    panel.annotate("exactly 0", (smallest, 0), (-8, 6), rotation=90, **beside)
    panel.set(xscale="log", xlabel="largest error, in units of measured rounding", ylabel="cases")
    panel.set_xlim(smallest / 10, None)
    panel.set_xticks(10.0 ** np.arange(0, highest + 1, 4))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_title("The gap between right and wrong rules")
    panel.legend(loc=(0.45, 0.5))
