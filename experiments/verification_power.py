"""How many wrong rules verification finds and how many right ones it passes, beside the usual gradient checks.

Every judge sees the same rules at the same points: `jaxnet.verify`, `jax.test_util.check_grads`, an element-wise
comparison with autodiff by `np.allclose`, and finite differences against the threshold of the course. Some mistakes are
planted by us, others were found in public code, each with its mended form; the two are counted apart.
"""

import math
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from experiments.experiment import Measurement, Options, Result, Table, Track, at_least
from experiments.figures import BLUE, GREY, ORANGE, RED
from experiments.gradient_judges import ALLCLOSE, CENTRAL, CHECK_GRADS, ONE_SIDED, PEERS, at_point, by_peers
from experiments.specimens.gradients.mistakes import MISTAKES
from experiments.specimens.gradients.right import RIGHT_RULES
from experiments.specimens.specimen import Specimen
from experiments.specimens.wild.gradients import WILD_FAULTS, WILD_RIGHT_RULES
from jaxnet.verify import Report, verify_vjp
from jaxnet.verify.engine.truth import UNITS_IN_FLOAT64

CLAIM = (
    "jaxnet.verify rejects every planted mistake, whatever the size of the weights, and every fault of public code, "
    "and passes every right rule; it names 97 planted mistakes in a hundred, and three public faults in four."
)

SCALES = (0.01, 0.1, 1.0, 10.0)
JAXNET = "jaxnet.verify"
JUDGES = (JAXNET, *PEERS)
DRAWN = (JAXNET, CHECK_GRADS, ALLCLOSE, CENTRAL, ONE_SIDED)
PLANTED, FOUND = "planted by us", "found in public code"
# Mistakes whose size is no multiple of rounding: they are not in the numbers, or not in float64.
WITHOUT_SIZE = ("structure", "shape", "dtype", "impure", "kink", "non_finite", "precision")
UNSPECIFIC = ("partial", "unknown", None)


class Verdict(NamedTuple):
    """What the judges said of a case.

    Attributes:
        specimen: which was judged.
        scale: at which scale of the weights.
        objects: which judges object; None for one that cannot judge.
        named: the kind of the first finding; None where nothing was found.
        explanation: of the first finding.
        units: by how many units of rounding the rule is off; NaN where that means nothing.
    """

    specimen: Specimen
    scale: float
    objects: dict[str, bool | None]
    named: str | None
    explanation: str
    units: float

    @property
    def origin(self) -> str:
        """Whether it was planted or found."""
        return FOUND if self.specimen.source else PLANTED

    @property
    def is_named(self) -> bool:
        """Whether a planted mistake got its kind, or a public fault one that says something."""
        if self.specimen.source:
            return self.named not in UNSPECIFIC
        return self.named == self.specimen.kind


def _judge(specimen: Specimen, scale: float, key: jax.Array) -> Verdict:
    point = at_point(specimen, scale, key)
    case = specimen.case
    report = verify_vjp(case.function, case.backward, *point.untouched().args, key=key, **case.options)
    first = report.findings[0] if report.findings else None
    objects = {JAXNET: not report.passed, **by_peers(point)}
    named, explanation = (first.kind, first.explanation) if first else (None, "")
    return Verdict(specimen, scale, objects, named, explanation, _units(specimen, report))


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


def _share(judge: str, verdicts: Iterable[Verdict]) -> float:
    """The share of the verdicts in which the judge objects, of those in which it can judge; NaN for none."""
    objects = [v.objects[judge] for v in verdicts if v.objects[judge] is not None]
    return sum(map(bool, objects)) / len(objects) if objects else math.nan


def _named(verdicts: list[Verdict]) -> float:
    return sum(v.is_named for v in verdicts) / len(verdicts) if verdicts else math.nan


def run(options: Options, track: Track) -> Result:
    """Every judge's verdict on every specimen, for every seed; planted ones at every scale of the weights."""
    planted, found = [*MISTAKES, *RIGHT_RULES], [*WILD_FAULTS, *WILD_RIGHT_RULES]
    scales, seeds = SCALES, options.seeds
    if options.quick:
        planted, found = [*MISTAKES[1::3], *RIGHT_RULES[::4]], [*WILD_FAULTS[::4], *WILD_RIGHT_RULES[::8]]
        scales, seeds = SCALES[2:3], 1
    keys = [jax.random.fold_in(options.key, seed) for seed in range(seeds)]
    verdicts: list[Verdict] = []
    # Rules may overflow or mix types, and must do so in any process as they do by JAX's defaults.
    with (
        warnings.catch_warnings(action="ignore"),
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for number, specimen in enumerate(track([*planted, *found], "specimens")):
            at = (1.0,) if specimen.source else scales
            verdicts += [_judge(specimen, scale, key) for scale in at for key in keys]
            if number % 32 == 31:
                jax.clear_caches()  # no program serves another specimen
    drawn = {
        "detected": {origin: {j: _share(j, _of(verdicts, origin, True)) for j in DRAWN} for origin in (PLANTED, FOUND)},
        "alarms": {origin: {j: _share(j, _of(verdicts, origin, False)) for j in DRAWN} for origin in (PLANTED, FOUND)},
        "units_right": [v.units for v in verdicts if v.specimen.kind is None and not math.isnan(v.units)],
        "units_wrong": [v.units for v in verdicts if v.specimen.kind is not None and not math.isnan(v.units)],
        "limit": UNITS_IN_FLOAT64,
    }
    tables = (_by_judge(verdicts), _by_scale(verdicts), _by_kind(verdicts), _names(verdicts))
    return Result(_measurements(verdicts, drawn, names_decide=not options.quick), drawn, tables)


def _of(verdicts: list[Verdict], origin: str, wrong: bool) -> list[Verdict]:
    """The verdicts on wrong or right rules of an origin."""
    return [v for v in verdicts if v.origin == origin and (v.specimen.kind is not None) == wrong]


def _measurements(verdicts: list[Verdict], drawn: dict[str, Any], *, names_decide: bool) -> tuple[Measurement, ...]:
    """What was counted; a quarter of the catalogue says little about the share that is named, and claims nothing."""

    def named(what: str, origin: str, least: float) -> Measurement:
        share = _named(wrong[origin])
        return at_least(what, share, least) if names_decide else Measurement(what, share)

    wrong, right = ({origin: _of(verdicts, origin, is_it) for origin in (PLANTED, FOUND)} for is_it in (True, False))
    return (
        at_least("planted mistakes rejected", _share(JAXNET, wrong[PLANTED]), 1.0),
        at_least("public faults rejected", _share(JAXNET, wrong[FOUND]), 1.0),
        at_least("right rules passed, those of planted mistakes", 1 - _share(JAXNET, right[PLANTED]), 1.0),
        at_least("right rules passed, mended and unusual ones of public code", 1 - _share(JAXNET, right[FOUND]), 1.0),
        named("planted mistakes named as planted", PLANTED, 0.97),
        named("public faults named, neither partial nor unknown", FOUND, 0.75),
        Measurement("largest error of a right rule, in units of rounding", max(drawn["units_right"], default=math.nan)),
        Measurement("smallest error of a mistake, in units of rounding", min(drawn["units_wrong"], default=math.nan)),
        *(Measurement(f"wrong rules {origin}", len({v.specimen.name for v in wrong[origin]})) for origin in wrong),
        *(Measurement(f"right rules {origin}", len({v.specimen.name for v in right[origin]})) for origin in right),
        Measurement("verdicts of each judge", len(verdicts)),
    )


def _by_judge(verdicts: list[Verdict]) -> Table:
    def row(judge: str) -> tuple[str, ...]:
        shares = [_percent(_share(judge, _of(verdicts, o, w))) for w in (True, False) for o in (PLANTED, FOUND)]
        names = [_percent(_named(_of(verdicts, o, True))) if judge == JAXNET else "" for o in (PLANTED, FOUND)]
        return judge, *shares, *names, f"{sum(v.objects[judge] is not None for v in verdicts)}"

    columns = ("judge", "planted mistakes", "public faults", "right beside planted", "right of public code")
    title = "Rejected: of wrong rules it should be all, of right ones none"
    return Table(title, (*columns, "planted named", "public named", "cases judged"), tuple(map(row, JUDGES)))


def _by_scale(verdicts: list[Verdict]) -> Table:
    planted = _of(verdicts, PLANTED, True)
    scales = sorted({v.scale for v in planted})

    def row(judge: str) -> tuple[str, ...]:
        return judge, *(_percent(_share(judge, (v for v in planted if v.scale == scale))) for scale in scales)

    return Table(
        "Planted mistakes rejected by scale of the weights", ("judge", *map(str, scales)), tuple(map(row, JUDGES))
    )


def _by_kind(verdicts: list[Verdict]) -> Table:
    wrong = [v for v in verdicts if v.specimen.kind is not None]

    def row(kind: str) -> tuple[str, ...]:
        of_kind = [v for v in wrong if v.specimen.kind == kind]
        counts = [f"{len({v.specimen.name for v in of_kind if v.origin == origin})}" for origin in (PLANTED, FOUND)]
        shares = [_percent(_share(judge, of_kind)) for judge in DRAWN]
        return kind, *counts, _percent(_named(of_kind)), *shares

    kinds = dict.fromkeys(v.specimen.kind for v in wrong if v.specimen.kind is not None)
    return Table("Wrong rules rejected by kind", ("kind", "planted", "found", "named", *DRAWN), tuple(map(row, kinds)))


def _names(verdicts: list[Verdict]) -> Table:
    """Every public fault with what it was called, to be read against what it is."""
    rows = {
        v.specimen.name: (v.specimen.source, v.specimen.name, v.specimen.kind or "", v.named or "", v.explanation)
        for v in _of(verdicts, FOUND, True)
    }
    columns = ("source", "fault", "kind", "called", "explanation")
    return Table("Public faults, and what they are called", columns, tuple(rows.values()))


def _percent(share: float) -> str:
    """A share in percent that says 100 and 0 only where that is exact."""
    if math.isnan(share) or share in (0, 1):
        return "" if math.isnan(share) else f"{share:.0%}"
    return f"{min(max(share, 0.001), 0.999):.1%}"


def plot(result: Result) -> Figure:
    """The shares of wrong and of right rules that each judge rejects; and how far apart the two are in rounding."""
    canvas = Figure(figsize=(11, 4.8))
    panels = canvas.subplot_mosaic([["detected", "alarms", "gap"]], width_ratios=(1, 1, 1.15))
    _draw_shares(panels["detected"], result.drawn["detected"], "Wrong rules rejected: should be all")
    _draw_shares(panels["alarms"], result.drawn["alarms"], "Right rules rejected: should be none")
    panels["alarms"].tick_params(labelleft=False)
    _draw_gap(panels["gap"], result.drawn)
    handles, labels = panels["detected"].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower left", ncols=2)
    return canvas


def _draw_shares(panel: Axes, shares: dict[str, dict[str, float]], title: str) -> None:
    """A judge a line, the share of planted and of public rules on it."""
    lines = np.arange(len(DRAWN))
    for (origin, of), colour, marker, shift in zip(shares.items(), (BLUE, ORANGE), "os", (-0.12, 0.12), strict=True):
        panel.plot([of[judge] for judge in DRAWN], lines + shift, marker, color=colour, label=origin, markersize=7)
    known = [share for of in shares.values() for share in of.values() if not math.isnan(share)]
    low, high = min([*known, 0.0 if min(known) < 0.5 else 0.5]), max([*known, 1.0 if min(known) >= 0.5 else 0.1])
    panel.set(title=title, xlim=(low - 0.06 * (high - low), high + 0.06 * (high - low)))
    panel.set_yticks(lines, DRAWN)
    panel.set_ylim(len(DRAWN) - 0.5, -0.5)
    panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panel.grid(axis="x", color=GREY, alpha=0.25)


def _draw_gap(panel: Axes, drawn: dict[str, Any]) -> None:
    """How many rules are off by how many units of rounding, and where the limit lies between right and wrong."""
    # Of a number that no rounding reaches, any error is immeasurably many units.
    smallest, most = 1e-3, 1e20
    units = {name: np.clip(drawn[f"units_{name}"], smallest, most) for name in ("right", "wrong")}
    edges = 10.0 ** np.arange(math.log10(smallest), math.log10(most) + 1, 0.5)
    for (name, numbers), colour in zip(units.items(), (BLUE, RED), strict=True):
        panel.hist(numbers, edges.tolist(), color=colour, label=f"{name} rules", edgecolor="white", linewidth=0.5)
    panel.axvline(drawn["limit"], color=GREY, linestyle="--", linewidth=1)
    beside: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "color": GREY}
    panel.annotate("limit", (drawn["limit"], 1), (4, -10), **beside)
    panel.annotate("exactly 0", (smallest, 0), (-8, 6), rotation=90, **beside)
    panel.annotate("or more", (most * 10**0.5, 0), (4, 6), rotation=90, **beside)
    panel.set(xscale="log", xlabel="largest error, in units of measured rounding", ylabel="cases")
    panel.set_xlim(smallest / 10, most * 30)
    panel.set_xticks(10.0 ** np.arange(0, 21, 4))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_title("The gap between right and wrong rules")
    panel.set_ylim(0, 1.2 * panel.get_ylim()[1])  # room for the legend
    panel.legend(loc="upper right")
