"""The hand-written update rules beside Optax's: how far apart, how fast, and whether the verifier tells wrong ones."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxnet
from experiments.experiment import Measurement, Options, Result, Table, Track, at_least, at_most
from experiments.figures import BLUE, GREEN, GREY, MARKERS, ORANGE, PINK
from experiments.specimens.optimizers.mistakes import OPTIMIZER_MISTAKES
from experiments.specimens.optimizers.right import RIGHT_OPTIMIZERS
from experiments.specimens.specimen import Specimen
from experiments.specimens.wild.optimizers import WILD_OPTIMIZER_FAULTS, WILD_RIGHT_OPTIMIZERS
from jaxnet.verify.engine.truth import UNITS_IN_FLOAT64, UNITS_IN_OWN_DTYPE

CLAIM = (
    "Every hand-written optimizer makes the updates of its counterpart in Optax and keeps the same state over 1000 "
    "steps, but for rounding; a jitted update takes as long at 10⁷ parameters (the median of all rules, to 3 %) and at "
    "10³ at most 1.1 times as long; verify_optimizer rejects every planted mistake and every fault of public code, and "
    "no right optimizer; it names 97 planted mistakes in a hundred, and three public faults in five (S20, S21)."
)

Factory = Callable[[Any], optax.GradientTransformation]


def _ema(learning_rate: Any) -> optax.GradientTransformation:
    """Optax's parts put together to the lecture's momentum."""
    return optax.chain(optax.ema(0.9, debias=False), optax.scale_by_learning_rate(learning_rate))


PAIRS: dict[str, tuple[Factory, Factory]] = {
    "gradient_descent": (jaxnet.gradient_descent, optax.sgd),
    "momentum": (jaxnet.optimizers.momentum, _ema),
    "heavy_ball": (jaxnet.optimizers.heavy_ball, functools.partial(optax.sgd, momentum=0.9)),
    "nesterov": (jaxnet.optimizers.nesterov, functools.partial(optax.sgd, momentum=0.9, nesterov=True)),
    "adagrad": (jaxnet.optimizers.adagrad, optax.adagrad),
    "rmsprop": (jaxnet.optimizers.rmsprop, optax.rmsprop),
    "rmsprop, centred, momentum": (
        functools.partial(jaxnet.optimizers.rmsprop, centered=True, momentum=0.9),
        functools.partial(optax.rmsprop, centered=True, momentum=0.9),
    ),
    "adam": (jaxnet.adam, optax.adam),
    "adamw": (jaxnet.optimizers.adamw, optax.adamw),
    "nadam": (jaxnet.optimizers.nadam, optax.nadam),
    "amsgrad": (jaxnet.optimizers.amsgrad, optax.amsgrad),
    "adamax": (jaxnet.optimizers.adamax, optax.adamax),
    "lion": (jaxnet.optimizers.lion, optax.lion),
}
CONTROL = "Optax's adam beside itself"
SIZES = (10**3, 10**5, 10**7)
STEPS = 1000
PARAMETERS = {"weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "bias": np.ones(3, np.float32)}


# How far apart --------------------------------------------------------------------------------------------------------


def conformance(pair: tuple[Factory, Factory], key: jax.Array, steps: int) -> dict[str, Any]:
    """The largest differences of updates and state in units of rounding, in float64 and in float32."""
    units: dict[str, Any] = {"passed": True}
    for dtype, native in (("float64", False), ("float32", True)):
        report = jaxnet.verify_optimizer(*pair, PARAMETERS, key=key, steps=steps, native=native)
        units["passed"] &= report.passed
        for what in ("updates", "state"):
            units[f"{what}, {dtype}"] = max(
                (n for path, n in report.leaves.items() if path.startswith(what)), default=0
            )
    return units


# How fast -------------------------------------------------------------------------------------------------------------


def ratios(pair: tuple[Factory, Factory], size: int, rounds: int) -> np.ndarray:
    """Seconds of a jitted update over seconds of Optax's, one a round, each side first in every other round."""
    calls = int(np.clip(3e4 // size, 1, 20))
    both = [_stepper(factory, size) for factory in pair]
    seconds = np.empty((rounds, 2))
    for step in both:
        step(2)
    for number, row in enumerate(seconds):
        for i in (0, 1) if number % 2 else (1, 0):
            started = time.perf_counter()
            both[i](calls)
            row[i] = time.perf_counter() - started
    return seconds[:, 0] / seconds[:, 1]


def _stepper(factory: Factory, size: int) -> Callable[[int], None]:
    """Takes so many steps, the state donated, on six leaves of `size` numbers in all."""
    optimizer = factory(1e-3)
    generator = np.random.default_rng(0)
    leaves = np.array_split(generator.standard_normal(size, np.float32), [size // 2, size * 3 // 4, *range(-3, 0)])
    gradients = [jnp.asarray(leaf) for leaf in leaves]
    params = jax.tree.map(jnp.ones_like, gradients)
    step = jax.jit(lambda gradients, state, params: optimizer.update(gradients, state, params), donate_argnums=1)
    state = optimizer.init(params)

    def run(calls: int) -> None:
        nonlocal state
        updates: Any = None
        for _ in range(calls):
            updates, state = step(gradients, state, params)
        jax.block_until_ready((updates, state))

    return run


# Whether wrong ones are told ------------------------------------------------------------------------------------------


PLANTED, FOUND = "planted by us", "found in public code"
CATALOGUE = {PLANTED: (*OPTIMIZER_MISTAKES, *RIGHT_OPTIMIZERS), FOUND: (*WILD_OPTIMIZER_FAULTS, *WILD_RIGHT_OPTIMIZERS)}
QUICK = 9  # a quick run judges every ninth


class Verdict(NamedTuple):
    """What the verifier said of a specimen.

    Attributes:
        specimen: which was judged.
        rejected: whether anything was found.
        kind: of the first finding, and its explanation.
        named: whether a planted mistake got its name, or a public fault one that says something.
    """

    specimen: Specimen
    rejected: bool
    kind: str
    explanation: str
    named: bool


def judged(specimen: Specimen, key: jax.Array) -> Verdict:
    """The verifier's verdict on a specimen."""
    report = specimen.case.verify(key)
    first = report.findings[0] if report.findings else None
    kind, explanation = (first.kind, first.explanation) if first else ("", "")
    named = kind not in ("partial", "unknown", "") if specimen.source else specimen.named_by(report)
    return Verdict(specimen, first is not None, kind, explanation, named)


def _verdict_measurements(verdicts: dict[str, list[Verdict]], *, names_decide: bool) -> list[Measurement]:
    """What was counted; a ninth of the catalogue says little about the share that is named, and claims nothing."""
    measurements = []
    for origin, names in ((PLANTED, 97), (FOUND, 60)):
        wrong, right = ([v for v in verdicts[origin] if (v.specimen.kind is None) == it_is] for it_is in (False, True))
        named = f"wrong optimizers {origin}: named, %", _percent([v.named for v in wrong])
        measurements += [
            at_least(f"wrong optimizers {origin}: rejected, %", _percent([v.rejected for v in wrong]), 100),
            at_least(*named, names) if names_decide else Measurement(*named),
            at_most(f"right optimizers, those {origin}: rejected, %", _percent([v.rejected for v in right]), 0),
            Measurement(f"verdicts on wrong and right optimizers {origin}", len(verdicts[origin])),
        ]
    return measurements


def _percent(flags: list[bool]) -> float:
    return 100 * float(np.mean(flags))


def _names(verdicts: list[Verdict]) -> Table:
    """Every public fault with what it was called, to be read against what it is."""
    columns = ("source", "fault", "kind", "called", "explanation")
    rows = {
        v.specimen.name: (v.specimen.source, v.specimen.name, v.specimen.kind, v.kind, v.explanation)
        for v in verdicts
        if v.specimen.kind is not None
    }
    return Table("Public faults of optimizers, and what they are called", columns, tuple(rows.values()))


def run(options: Options, track: Track) -> Result:
    """Conformance, speed, and the catalogue of mistakes over as many keys as there are seeds."""
    keys = list(jax.random.split(options.key, 1 if options.quick else options.seeds))
    names = ["momentum", "adam"] if options.quick else list(PAIRS)
    steps, rounds, stride = (64, 31, QUICK) if options.quick else (STEPS, 61, 1)
    apart = {name: conformance(PAIRS[name], keys[0], steps) for name in track(names, "conformance")}
    speed: dict[str, dict[int, np.ndarray]] = {}
    timed = {name: PAIRS[name] for name in names} | {CONTROL: (optax.adam, optax.adam)}
    sizes = SIZES[:2] if options.quick else SIZES
    for name in track(timed, "speed"):
        # Short stretches and many: a burst of other work on the machine spoils a few, not the median.
        speed[name] = {size: ratios(timed[name], size, rounds) for size in sizes}
    chosen = {origin: specimens[::stride] for origin, specimens in CATALOGUE.items()}
    verdicts = {
        origin: [judged(s, key) for s in track(specimens, f"{origin}, {len(keys)} keys") for key in keys]
        for origin, specimens in chosen.items()
    }
    at_size = {size: {name: float(np.median(speed[name][size])) for name in timed} for size in sizes}
    measurements = [
        at_least("optimizers that pass against Optax", sum(a["passed"] for a in apart.values()), len(names)),
        at_most("largest difference, float64, units of rounding", _largest(apart, "float64"), UNITS_IN_FLOAT64),
        at_most("largest difference, float32, units of rounding", _largest(apart, "float32"), UNITS_IN_OWN_DTYPE),
    ]
    for size in sizes:
        ours = [at_size[size][name] for name in names]
        middle = f"{size:,} parameters: time over Optax's, median rule", float(np.median(ours))
        slowest = f"{size:,} parameters: time over Optax's, slowest rule", max(ours)
        # At 10⁷ memory sets the pace of both, and noise that of the slowest: the median of the rules decides.
        decides = not options.quick  # few rounds say little
        measurements.append(at_most(*middle, 1.03) if decides and size == SIZES[2] else Measurement(*middle))
        measurements.append(at_most(*slowest, 1.1) if decides and size == SIZES[0] else Measurement(*slowest))
        noise = float(np.median(np.abs(speed[CONTROL][size] - 1)))
        measurements.append(Measurement(f"{size:,} parameters: noise, Optax's adam beside itself", noise))
    measurements += _verdict_measurements(verdicts, names_decide=not options.quick)
    columns = ("updates, float64", "state, float64", "updates, float32", "state, float32")
    rows = tuple(
        (name, *(float(apart[name][column]) for column in columns), *(at_size[size][name] for size in sizes))
        for name in names
    )
    title = f"Largest difference in units of rounding over {steps} steps, and time over Optax's by parameters"
    tables = [Table(title, ("optimizer", *columns, *(f"{size:.0e}" for size in sizes)), rows)]
    tables.append(_names(verdicts[FOUND]))
    unnamed = dict.fromkeys(v.specimen.name for v in verdicts[PLANTED] if v.specimen.kind is not None and not v.named)
    if unnamed:
        tables.append(Table("Planted mistakes under another name", ("mistake",), tuple((name,) for name in unnamed)))
    drawn = {"apart": apart, "speed": {name: {str(s): r for s, r in by.items()} for name, by in speed.items()}}
    return Result(tuple(measurements), drawn, tuple(tables))


def _largest(apart: dict[str, dict[str, Any]], dtype: str) -> float:
    return max(float(units[f"{what}, {dtype}"]) for units in apart.values() for what in ("updates", "state"))


def plot(result: Result) -> Figure:
    """Differences in units of rounding with their limits, and ratios of time, one optimizer a line."""
    apart, speed = result.drawn["apart"], result.drawn["speed"]
    canvas = Figure(figsize=(10, 2.2 + 0.27 * len(speed)))
    left, right = canvas.subplots(1, 2, width_ratios=(1, 1.1))
    names = list(apart)
    for dtype, colour, limit in (("float64", BLUE, UNITS_IN_FLOAT64), ("float32", ORANGE, UNITS_IN_OWN_DTYPE)):
        for what, marker in (("updates", "o"), ("state", "s")):
            units = [max(apart[name][f"{what}, {dtype}"], 1e-4) for name in names]
            left.plot(units, range(len(names)), marker, color=colour, markersize=5, label=f"{what}, {dtype}")
        left.axvline(limit, color=colour, linestyle="--", linewidth=1)
        left.text(limit, -0.75, f"limit, {dtype} ", color=colour, fontsize=8, ha="right", va="center")
    left.set(title="Difference from Optax", xlabel="units of rounding, largest (0 at the left edge)", xscale="log")
    _lines(left, names)
    for i, (size, colour) in enumerate(zip(next(iter(speed.values())), (GREEN, BLUE, PINK), strict=False)):
        for line, name in enumerate(speed):
            low, middle, high = np.quantile(speed[name][size], (0.25, 0.5, 0.75))
            y = line + 0.22 * (i - 1)
            right.hlines(y, low, high, color=colour, linewidth=1.2)
            label = f"{int(size):,} parameters" if line == 0 else None
            right.plot(middle, y, MARKERS[i], color=colour, markersize=4.5, label=label)
    right.axvline(1, color=GREY, linewidth=1)
    right.set(title="Time of a jitted update", xlabel="over Optax's: median and middle half")
    _lines(right, list(speed))
    canvas.legend(loc="outside lower center", ncols=4, fontsize=8)
    return canvas


def _lines(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -1)
