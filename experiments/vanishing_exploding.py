"""S15: c·I in every layer makes outputs and gradients grow or shrink like c^L; random matrices do so on average."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy.special import digamma, polygamma

import jaxnet
from experiments.experiment import Measurement, Options, Result, Table, Track, at_most
from experiments.figures import BLUE, COLOURS, GREEN, GREY, MARKERS, ORANGE

CLAIM = (
    "Through L layers of weights c·I the output is c^L x and its gradient by x is c^L, and that of every weight matrix "
    "c^(L-1), so that float32 overflows at L = 219 for c = 1.5 and leaves the normal numbers at L = 127 for c = 0.5; "
    "random matrices follow such a law on average, with a smaller factor the narrower the network (S15)."
)

FACTORS = (Fraction(3, 2), Fraction(1), Fraction(1, 2))
DEPTH = 100
LIMIT_DEPTH = {"float16": 100, "bfloat16": 260, "float32": 260, "float64": 1800}
WIDTHS = (2, 4, 8, 16, 32)
DRAWS = 64  # random networks a seed


def _stack(depth: int, width: int, activation: jaxnet.activations.Activation, dtype: str) -> jaxnet.Layer:
    """`depth` layers of `width` neurons; the weights start as I, the biases as 0."""
    linear = jaxnet.dense(width, width, jaxnet.initializers.scaled_identity(1.0), dtype=dtype)
    return jaxnet.repeat(jaxnet.serial(linear, jaxnet.elementwise(activation)), depth)


def _powers(activation: jaxnet.activations.Activation) -> dict[str, np.ndarray]:
    """For every factor and L = 1 to 100 the output, its gradient by x, and that by each W[l], for x and δ of ones.

    A network of L layers is the first L of a hundred, the weights of the others being I: one program for all depths.
    """
    network = _stack(DEPTH, 2, activation, "float64")
    params = network.init(jax.random.key(0))
    ones = jnp.ones(2, "float64")

    def one(factor: Array, depth: Array) -> tuple[Array, Array, Array]:
        (dense, nothing) = params
        scale = jnp.where(jnp.arange(DEPTH) < depth, factor, 1.0)
        own = (dense._replace(weight=dense.weight * scale[:, None, None]), nothing)
        outputs, cache = network.forward(own, ones)
        grad_x, (gradient, _) = network.backward(own, cache, ones)
        return outputs, grad_x, gradient.weight

    depths = jax.vmap(one, in_axes=(None, 0))
    every = jax.jit(jax.vmap(depths, in_axes=(0, None)))
    measured = every(jnp.asarray([float(c) for c in FACTORS], "float64"), jnp.arange(1, 1 + DEPTH))
    return dict(zip(("forward", "backward", "weight"), map(np.asarray, measured), strict=True))


def _relative_errors(powers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Largest relative difference to the exact powers for each factor."""
    exact = np.array([[float(c**depth) for depth in range(DEPTH + 1)] for c in FACTORS])
    used = np.arange(DEPTH)[:, None] >= np.arange(DEPTH)  # layer l of a network of L layers
    weight = np.abs(powers["weight"] / exact[:, :-1, None, None, None] - 1).max(axis=(3, 4))
    return {
        "output": np.abs(powers["forward"] / exact[:, 1:, None] - 1).max(axis=(1, 2)),
        "gradient by x": np.abs(powers["backward"] / exact[:, 1:, None] - 1).max(axis=(1, 2)),
        "gradient by W[l], every l": np.where(used, weight, 0).max(axis=(1, 2)),
    }


def _range(dtype: str, activation: jaxnet.activations.Activation) -> dict[str, np.ndarray]:
    """The outputs after each layer and the gradients on the way back, for 1.5·I and 0.5·I, beyond the dtype's range."""
    depth = LIMIT_DEPTH[dtype]
    network = _stack(depth, 2, activation, dtype)
    dense, nothing = network.init(jax.random.key(0))
    ones = jnp.ones(2, dtype)

    def one(factor: Array) -> tuple[Array, Array]:
        params = (dense._replace(weight=dense.weight * factor), nothing)
        outputs, cache = network.forward(params, ones)
        grad_x, (gradient, _) = network.backward(params, cache, ones)
        after = jnp.concatenate([cache[0][1:, 0], outputs[:1]])
        return after, jnp.concatenate([gradient.bias[::-1, 0][1:], grad_x[:1]])

    with jax.default_matmul_precision("highest"):
        measured = jax.jit(jax.vmap(one))(jnp.asarray([1.5, 0.5], dtype))
    return dict(zip(("forward", "backward"), (np.asarray(part, np.float64) for part in measured), strict=True))


def _first(condition: np.ndarray) -> float:
    """The first L for which it is true, NaN if there is none."""
    return float(condition.argmax() + 1) if condition.any() else math.nan


def _limits(dtype: str, values: np.ndarray) -> dict[str, tuple[float, float]]:
    """The first L at which the values leave the dtype's numbers, each with its closed form."""
    limits = jnp.finfo(dtype)
    grown, shrunk = values
    tiny, halved = jnp.asarray(limits.tiny, dtype), jnp.asarray(0.5, dtype)
    flushes = float(jax.jit(jnp.multiply)(tiny, halved)) == 0  # some devices have no subnormal numbers
    overflow = float(next(n for n in range(1, 2000) if Fraction(3, 2) ** n > Fraction(float(limits.max))))
    subnormal = 1.0 - limits.minexp
    return {
        "1.5^L infinite": (_first(np.isinf(grown)), overflow),
        "NaN": (_first(np.isnan(grown)), overflow + 1),  # 0·∞ in the product with I
        "0.5^L below the normal numbers": (_first(shrunk < float(limits.tiny)), subnormal),
        "0.5^L exactly 0": (_first(shrunk == 0), subnormal if flushes else subnormal + limits.nmant),
    }


def law(width: int) -> tuple[float, float]:
    """Mean and variance that log ‖a‖ gains in a layer whose weights are N(0, 1/n): those of ½ log(χ²(n)/n)."""
    return (digamma(width / 2) + math.log(2 / width)) / 2, float(polygamma(1, width / 2)) / 4


def _random(width: int, gain: float, generator: np.random.Generator, draws: int) -> dict[str, np.ndarray]:
    """log ‖a[L]‖ and log ‖δ‖ after L = 1 to 100 layers of weights N(0, gain²/n), for so many random networks."""
    network = _stack(DEPTH, width, jaxnet.activations.identity, "float64")
    weight = jnp.asarray(generator.standard_normal((draws, DEPTH, width, width)) * (gain / math.sqrt(width)))
    start = jnp.full(width, 1 / math.sqrt(width), "float64")

    def one(weight: Array) -> tuple[Array, Array]:
        params = (jaxnet.layers.Dense(weight, jnp.zeros((DEPTH, width), "float64")), ())
        _, cache = network.forward(params, start)
        grad_x, (gradient, _) = network.backward(params, cache, start)
        back = jnp.concatenate([gradient.bias[::-1][1:], grad_x[None]])
        return jnp.linalg.norm(cache[1], axis=1), jnp.linalg.norm(back, axis=1)

    norms = jax.jit(jax.vmap(one))(weight)
    return {name: np.log(np.asarray(norm)) for name, norm in zip(("forward", "backward"), norms, strict=True)}


def run(
    options: Options, track: Track, activation: jaxnet.activations.Activation = jaxnet.activations.identity
) -> Result:
    """Powers against their closed form, the limits of the dtypes, then random matrices against theirs."""
    widths = WIDTHS[:3] if options.quick else WIDTHS
    draws = DRAWS * options.seeds
    generator = np.random.default_rng(np.asarray(jax.random.key_data(options.key)))
    with jax.enable_x64(True):
        powers = _powers(activation)
        ranges = {dtype: _range(dtype, activation) for dtype in track(list(LIMIT_DEPTH), "limits of the dtypes")}
        limits = {(dtype, way): _limits(dtype, both[way]) for dtype, both in ranges.items() for way in both}
        cases = [(2, 1.5), (2, 0.5), *((width, 1.0) for width in widths)]
        random = {
            (width, gain): _random(width, gain, generator, draws) for width, gain in track(cases, "random matrices")
        }
    measurements = [
        at_most(f"{what}, c = {float(c)}: largest relative difference to its power, L = 1 to 100", error, 1e-12)
        for what, errors in _relative_errors(powers).items()
        for c, error in zip(FACTORS, errors, strict=True)
    ]
    for way in ("forward", "backward"):
        for what, (found, exact) in limits["float32", way].items():
            measurements.append(Measurement(f"float32 {way}: first L: {what}", found, f"= {exact:g}", found == exact))
    halves = np.multiply.accumulate(np.full(LIMIT_DEPTH["float32"], 0.5, np.float32))
    found, exact = _first(halves == 0), 127.0 + np.finfo(np.float32).nmant
    name = "float32 with subnormal numbers (NumPy): first L: 0.5^L exactly 0"
    measurements.append(Measurement(name, found, f"= {exact:g}", found == exact))
    grown, rows = {}, []
    for (width, gain), ways in random.items():
        mean, variance = law(width)
        for way, logs in ways.items():
            grown[width, gain, way] = logs[:, -1].mean() / DEPTH
            expected = math.log(gain) + mean
            errors = float(grown[width, gain, way] - expected) / math.sqrt(variance / DEPTH / draws)
            rows.append((str(width), f"{gain}", way, *np.exp((grown[width, gain, way], expected)).tolist(), errors))
    worst = max(abs(row[-1]) for row in rows)
    measurements.append(
        at_most("random: factor a layer against its law, largest deviation in standard errors", worst, 5)
    )
    tables = (
        Table(
            "First L at which a dtype leaves its numbers: measured (closed form); subnormals as this device has them",
            ("dtype", "way", *next(iter(limits.values()))),
            tuple(
                (dtype, way, *(f"{found:g} ({exact:g})" for found, exact in firsts.values()))
                for (dtype, way), firsts in limits.items()
            ),
        ),
        Table(
            f"Random matrices, weights N(0, gain²/n): geometric mean of the factor a layer, {draws} networks",
            ("width n", "gain", "way", "measured", "law", "standard errors off"),
            tuple(rows),
        ),
    )
    quantiles = {
        gain: np.quantile(random[2, gain]["forward"], (0.05, 0.5, 0.95), axis=0) / math.log(10)
        for gain in (1.5, 1.0, 0.5)
    }
    drawn = {
        "powers": {way: powers[way][:, :, 0] for way in ("forward", "backward")},
        "float32": ranges["float32"]["forward"],
        "random": quantiles,
        "widths": list(widths),
        "factors": {way: [math.exp(grown[width, 1.0, way]) for width in widths] for way in ("forward", "backward")},
    }
    return Result(tuple(measurements), drawn, tables)


def plot(result: Result) -> Figure:
    """Powers by depth, what float32 makes of them, and random matrices by depth and by width."""
    drawn, canvas = result.drawn, Figure(figsize=(10, 7.4))
    powers, limits, random, widths = canvas.subplots(2, 2).flat
    depths = np.arange(1, 1 + DEPTH)
    every = np.array([0, 9, 19, 29, 39, 49, 59, 69, 79, 89, 99])
    for i, (c, colour, marker) in enumerate(zip(FACTORS, COLOURS, MARKERS, strict=False)):
        powers.plot(depths, float(c) ** depths, color=colour, linewidth=1)
        for way, size, fill in (("forward", 3.5, "full"), ("backward", 8, "none")):
            values = drawn["powers"][way][i][every]
            powers.plot(depths[every], values, marker, color=colour, markersize=size, fillstyle=fill)
        up = 1e-8 if c < 1 else 1e4
        powers.annotate(f"{float(c)}·I", (62, float(c) ** 62 * up), color=colour, ha="center")
    powers.set(title="Weights c·I: outputs (filled) and gradients (hollow)\non the lines c^L", xlabel="layers L")
    powers.set(ylabel="size, for x = 1", yscale="log")

    grown, shrunk = drawn["float32"]
    kept = np.finfo(np.float32)
    depths_32 = np.arange(1, 1 + len(grown))
    finite, normal = np.isfinite(grown), shrunk > 0
    limits.plot(depths_32[finite], grown[finite], color=BLUE)
    limits.plot(depths_32[normal], shrunk[normal], color=GREEN)
    for value, name, offset in (
        (kept.max, "largest float32", 4),
        (kept.tiny, "smallest normal", 4),
        (kept.smallest_subnormal, "smallest subnormal", -13),
    ):
        limits.axhline(float(value), color=GREY, linestyle="--", linewidth=1)
        place = {"xy": (1, float(value)), "xytext": (0, offset), "textcoords": "offset points", "color": GREY}
        limits.annotate(name, **place)
    for values, kind, what, colour, height in (
        (grown, finite, "infinite", BLUE, 1e22),
        (shrunk, normal, "0", GREEN, 1e-26),
    ):
        first = int(kind.argmin())
        limits.plot([first], values[first - 1], "X", color=colour, markersize=8)
        limits.annotate(f"{what} from\nL = {first + 1}", (first + 6, height), color=colour)
    limits.set(title="The same in float32, on this device", xlabel="layers L", ylabel="output, for x = 1")
    limits.set(yscale="log", ylim=(1e-57, 1e46), xlim=(-5, 300))

    for (gain, (low, middle, high)), colour in zip(drawn["random"].items(), COLOURS, strict=False):
        random.fill_between(depths, low, high, color=colour, alpha=0.2, linewidth=0)
        random.plot(depths, middle, color=colour)
        random.plot(
            depths, depths * (math.log(gain) + law(2)[0]) / math.log(10), color=GREY, linestyle="--", linewidth=1
        )
        random.annotate(f"gain {gain}", (depths[-1], middle[-1]), (5, -4), textcoords="offset points", color=colour)
    random.set(title="Random 2×2 matrices, N(0, gain²/2)\n(median, 5 to 95%; dashed: the law)", xlabel="layers L")
    random.set(ylabel="log₁₀ of output norm, for ‖x‖ = 1", xlim=(0, 124))

    n = np.geomspace(drawn["widths"][0], drawn["widths"][-1], 60)
    factors = np.exp([law(width)[0] for width in n])
    widths.plot(n, factors, color=GREY, linestyle="--", linewidth=1, label="law")
    widths.axhline(1, color=ORANGE, linewidth=1)
    widths.annotate("1.0·I", (n[0], 1), (0, 4), textcoords="offset points", color=ORANGE)
    for way, size, fill in (("forward", 5, "full"), ("backward", 10, "none")):
        widths.plot(
            drawn["widths"], drawn["factors"][way], "s", color=ORANGE, markersize=size, fillstyle=fill, label=way
        )
    widths.set(title="Random n×n matrices of gain 1:\ngeometric mean of the factor a layer", xlabel="width n")
    widths.set(ylabel="factor a layer", xscale="log", ylim=(0.7, 1.05))
    widths.set_xticks(drawn["widths"], [str(width) for width in drawn["widths"]])
    widths.xaxis.set_minor_locator(NullLocator())
    widths.legend(loc="lower right")
    return canvas
