"""S20: momentum damps the zig-zag across a valley, keeps the motion along it, and needs √κ steps in place of κ."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxnet
from experiments import two_weights
from experiments.experiment import Measurement, Options, Result, Table, Track, at_least, at_most
from experiments.figures import BLUE, GREEN, GREY, ORANGE

CLAIM = (
    "On stretched contours momentum damps the zig-zag across the valley and keeps the motion along it: at the best "
    "settings gradient descent needs steps like the condition number κ, momentum like √κ. Not where there is no "
    "zig-zag: at small learning rates, or on round contours, momentum travels further and needs more steps (S20)."
)

TOLERANCE = 1e-6  # of the distance to the minimum at the start
STRETCHES = (10, 30, 100, 300, 1000)
NEAR_THEORY = np.array([0.75, 0.9, 1.0, 1.1, 1.25])
USUAL = 0.9  # β
ZIG_ZAG_STRETCH, ZIG_ZAG_STEPS = 100.0, 60
FEATURES, TUMOURS = ("mean radius", "mean area"), 100
REAL_RATES, REAL_DECAYS, REAL_TOLERANCE, REAL_LIMIT = np.geomspace(1, 1000, 19), (0.8, 0.9, 0.95), 1e-3, 1000
NAMES = ("gradient descent", "momentum")
COLOUR = {"gradient descent": BLUE, "momentum": ORANGE, "momentum, β = 0.9": GREEN}


class Settings(NamedTuple):
    """Learning rate α and momentum β of jaxnet.optimizers.momentum; without β, of gradient descent."""

    alpha: Any
    beta: Any = None

    def optimizer(self) -> Any:
        """The optimizer of these settings; vmap stacks it."""
        return (
            jaxnet.gradient_descent(self.alpha)
            if self.beta is None
            else jaxnet.optimizers.momentum(self.alpha, self.beta)
        )


def theory(stretch: Any, memory: float) -> dict[str, Settings]:
    """The settings of least asymptotic rate for curvatures from 1/κ to 1 (Polyak 1964), β times `memory`.

    Gradient descent: α = 2/(1 + 1/κ), rate (κ - 1)/(κ + 1). Momentum: √β = (√κ - 1)/(√κ + 1) is the rate, and
    α(1 - β) = 4/(1 + 1/√κ)², or what is best for β = 0.
    """
    descent = 2 / (1 + 1 / stretch)
    beta = memory * ((np.sqrt(stretch) - 1) / (np.sqrt(stretch) + 1)) ** 2
    heavy_ball = (1 + np.sqrt(beta)) ** 2 if memory else descent
    return {"gradient descent": Settings(descent), "momentum": Settings(heavy_ball / (1 - beta), beta)}


def steps_in_closed_form(settings: Settings, stretch: float, start: np.ndarray) -> int:
    """Steps to tolerance from `start`, across and along, by the recurrence e := e - αv, v := βv + (1 - β)λe of each."""
    beta = settings.beta or 0.0
    error, velocity, steps = start.copy(), np.zeros(2), 0
    while np.linalg.norm(error) > TOLERANCE * np.linalg.norm(start):
        velocity = beta * velocity + (1 - beta) * np.array([1, 1 / stretch]) * error
        error, steps = error - settings.alpha * velocity, steps + 1
    return steps


@partial(jax.jit, static_argnums=0)
def steps_to_tolerance(
    loss: jaxnet.losses.Loss, settings: Settings, limits: Any, tolerance: Any, problem: Any
) -> Array:
    """Steps until the distance to the minimum is at most its share of that at the start, or infinity; (lanes,)."""
    gradient = two_weights.gradient(loss)

    def one(settings: Settings, limit: Array, problem: tuple[Array, ...]) -> Array:
        start, goal, x, y = problem
        optimizer, close = settings.optimizer(), tolerance * jnp.linalg.norm(start - goal)

        def unfinished(carry: Any) -> Array:
            return (jnp.linalg.norm(carry[0] - goal) > close) & (carry[2] < limit)

        def step(carry: Any) -> Any:
            updates, state = optimizer.update(gradient(carry[0], x, y), carry[1], carry[0])
            return carry[0] + updates, state, carry[2] + 1

        w, _, steps = jax.lax.while_loop(unfinished, step, (start, optimizer.init(start), 0))
        return jnp.where(jnp.linalg.norm(w - goal) <= close, steps, jnp.inf)

    return jax.vmap(one)(settings, limits, problem)


@partial(jax.jit, static_argnums=(0, 1))
def paths(loss: jaxnet.losses.Loss, count: int, settings: Settings, start: Array, x: Array, y: Array) -> Array:
    """The weights after 0, 1, ..., count steps at each of the settings: (settings, count + 1, 2)."""
    gradient = two_weights.gradient(loss)

    def one(settings: Settings) -> Array:
        optimizer = settings.optimizer()

        def step(carry: Any, _: None) -> Any:
            updates, state = optimizer.update(gradient(carry[0], x, y), carry[1], carry[0])
            return (carry[0] + updates, state), carry[0]

        return jax.lax.scan(step, (start, optimizer.init(start)), None, count + 1)[1]

    return jax.vmap(one)(settings)


def _lanes(*parts: Any) -> Any:
    """Each tree of parts[i] has its own leading axis; every combination of them, on one axis, first part slowest."""
    sizes = [len(jax.tree.leaves(part)[0]) for part in parts]
    picks = np.indices(sizes).reshape(len(sizes), -1)
    return [
        jax.tree.map(lambda leaf, pick=pick: jnp.asarray(leaf)[pick], part)
        for part, pick in zip(parts, picks, strict=True)
    ]


def _quadratics(stretches: Any, memory: float, generator: np.random.Generator, seeds: int) -> dict[str, np.ndarray]:
    """Steps by stretch and seed: in closed form, at theory's settings, at the best, and at the best with β = 0.9."""
    angles, starts = generator.uniform(0, np.pi, seeds), generator.standard_normal((seeds, 2))
    found: dict[str, Any] = {}
    lanes: dict[str, list[Any]] = {name: [] for name in COLOUR}
    near, share = np.meshgrid(NEAR_THEORY, NEAR_THEORY)
    for stretch in stretches:
        bases = np.stack([np.stack([[-np.sin(a), np.cos(a)], [np.cos(a), np.sin(a)]]) for a in angles])
        x = jax.vmap(two_weights.quadratic, in_axes=(None, 0))(jnp.asarray(float(stretch)), jnp.asarray(angles))
        problem = (np.einsum("si,sij->sj", starts, bases), np.zeros((seeds, 2)), np.asarray(x), np.zeros((seeds, 4)))
        best = theory(stretch, memory)
        for name in NAMES:
            closed = [steps_in_closed_form(best[name], stretch, start) for start in starts]
            found.setdefault(f"{name}, closed form", []).append(closed)
        alpha, beta = best["momentum"]
        limit = 1.6 * max(np.max(found["gradient descent, closed form"][-1]), 250)
        lanes["gradient descent"].append((Settings(best["gradient descent"].alpha * NEAR_THEORY), limit, problem))
        tuned_beta = (1 - (1 - np.sqrt(beta)) * share.ravel()) ** 2 if memory else np.zeros(near.size)
        tuned = Settings(alpha * (1 - beta) * near.ravel() / (1 - tuned_beta), tuned_beta)
        lanes["momentum"].append((tuned, limit, problem))
        usual = Settings(np.geomspace(0.05, 3.7, 15) / (1 - USUAL), np.full(15, USUAL))
        lanes["momentum, β = 0.9"].append((usual, limit, problem))
    for name, blocks in lanes.items():
        counts = len(blocks[0][0].alpha)
        combined = [(*_lanes(settings, problem), np.full(counts * seeds, limit)) for settings, limit, problem in blocks]
        settings, problem, limits = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *combined)
        steps = steps_to_tolerance(jaxnet.squared_error, settings, limits, TOLERANCE, problem)
        steps = np.asarray(steps).reshape(len(stretches), counts, seeds)
        found[name] = steps.min(axis=1)
        if name in NAMES:
            found[f"{name}, theory's settings"] = steps[:, counts // 2]
    return {name: np.asarray(steps, float) for name, steps in found.items()}


def _zig_zag(memory: float, start: np.ndarray) -> dict[str, Any]:
    """Travel across the valley and progress along it, of both at the same learning rates; one path of each."""
    rates = np.linspace(0.1, 1.9, 37)
    x, y = two_weights.quadratic(jnp.asarray(ZIG_ZAG_STRETCH), jnp.asarray(0.0)), jnp.zeros(4)
    drawn: dict[str, Any] = {"rates": rates}
    both = Settings(rates), Settings(rates, np.full(len(rates), memory * USUAL))
    for name, settings in zip(NAMES, both, strict=True):
        weights = np.asarray(paths(jaxnet.squared_error, ZIG_ZAG_STEPS, settings, jnp.asarray(start), x, y))
        travel = np.abs(np.diff(weights, axis=1)).sum(axis=1) / np.abs(start)
        progress = 1 - weights[:, -1] / start
        drawn[name] = {"across": travel[:, 1], "along": progress[:, 0], "path": weights[-1]}
    cost = two_weights.cost(jaxnet.squared_error)
    drawn["seen"] = two_weights.seen_from_above(lambda w: cost(w, x, y), (-0.3, 2.2, -1.1, 1.1))
    return drawn


def _tumours(memory: float, seeds: int, generator: np.random.Generator) -> dict[str, Any]:
    """Steps on the logistic cost of two features at the best settings, by seed; two paths of the first, α = 1.95/λ."""
    loss, problems = jaxnet.binary_cross_entropy, []
    for _ in range(seeds):
        x, y = two_weights.tumours(FEATURES, TUMOURS, generator)
        goal = two_weights.minimum(x, y)
        problems.append((goal + 3 * generator.standard_normal(2), goal, x, y))
    problem = tuple(np.stack(part) for part in zip(*problems, strict=True))
    alpha, beta = (part.ravel() for part in np.meshgrid(REAL_RATES, memory * np.asarray(REAL_DECAYS)))
    _, goal, x, y = problems[0]
    (_, steepest), axes = np.linalg.eigh(two_weights.curvature(goal, x))
    drawn: dict[str, Any] = {
        "condition": [np.linalg.cond(two_weights.curvature(goal, x)) for _, goal, x, _ in problems],
        "minimum": goal,
        "rate": 1.95 / steepest,
    }
    start = goal + axes @ np.array([2.5, 1.0])
    for name, settings in zip(NAMES, (Settings(REAL_RATES), Settings(alpha, beta)), strict=True):
        lanes, repeated = _lanes(settings, problem)
        limits = np.full(len(lanes.alpha), REAL_LIMIT)
        steps = np.asarray(steps_to_tolerance(loss, lanes, limits, REAL_TOLERANCE, repeated)).reshape(-1, seeds)
        one = Settings(np.full(1, drawn["rate"]), None if settings.beta is None else np.full(1, memory * USUAL))
        path = np.asarray(paths(loss, ZIG_ZAG_STEPS, one, start, x, y))[0]
        drawn[name] = {"steps": steps.min(axis=0), "path": path}
    limits = (*(goal[0] + np.array([-1.0, 3.0])), *(goal[1] + np.array([-4.0, 0.5])))
    examples, cost = (jnp.asarray(x), jnp.asarray(y)), two_weights.cost(loss)
    drawn["seen"] = two_weights.seen_from_above(lambda w: cost(w, *examples), limits)
    return drawn


def _exponents(stretches: Any, steps: np.ndarray) -> np.ndarray:
    """The slope of log steps against log κ, one a seed."""
    return np.polyfit(np.log(stretches), np.log(steps), 1)[0]


def run(options: Options, track: Track, memory: float = 1.0) -> Result:
    """Counts steps and measures travel; `memory` scales every β, and at 0 momentum is gradient descent."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(options.key)))
    stretches = np.array([stretch for stretch in STRETCHES if not options.quick or stretch <= 100])
    parts = {
        "quadratics": lambda: _quadratics(stretches, memory, generator, options.seeds),
        "zig-zag": lambda: _zig_zag(memory, np.array([2.0, 0.9])),
        "tumours": lambda: _tumours(memory, options.seeds, generator),
    }
    with jax.enable_x64(True):
        drawn: dict[str, Any] = {name: parts[name]() for name in track(parts, "costs")}
    steps, zig_zag, real = drawn.values()
    drawn["stretches"] = stretches
    measurements, rows = [], []
    for name, exponent in zip(NAMES, (1.0, 0.5), strict=True):
        fitted = _exponents(stretches, steps[name])
        drawn[f"{name}, exponent"] = fitted
        measurements += [
            Measurement(f"{name}: exponent of κ, median of {options.seeds} seeds", float(np.median(fitted))),
            at_most(f"{name}: its relative distance to {exponent:g}", abs(np.median(fitted) / exponent - 1), 0.15),
            Measurement(f"{name}: smallest exponent of a seed", float(fitted.min())),
            Measurement(f"{name}: largest exponent of a seed", float(fitted.max())),
            at_most(
                f"{name}: steps by which the closed form errs",
                np.abs(steps[f"{name}, theory's settings"] - steps[f"{name}, closed form"]).max(),
                1,
            ),
        ]
    descent, momentum = (zig_zag[name] for name in NAMES)
    across = momentum["across"] / descent["across"]

    def at(rate: float) -> int:
        return int(np.abs(zig_zag["rates"] - rate).argmin())

    less = zig_zag["rates"][across < 1]
    usual, plain = steps["momentum, β = 0.9"], steps["gradient descent"]
    faster = stretches[np.median(usual, axis=1) < np.median(plain, axis=1)]
    speedup = real["gradient descent"]["steps"] / real["momentum"]["steps"]
    measurements += [
        at_most("travel across at α = 1.9/λ, momentum over gradient descent", across[-1], 0.5),
        at_least(
            "progress along at α = 1.9/λ, momentum over gradient descent",
            momentum["along"][-1] / descent["along"][-1],
            0.75,
        ),
        at_least("travel across at α = 0.5/λ, no zig-zag, momentum over gradient descent", across[at(0.5)], 1),
        Measurement("momentum travels less across from this αλ on", float(less.min()) if len(less) else np.inf),
        at_least("steps at κ = 10, the best with β = 0.9 over gradient descent", np.median(usual[0] / plain[0]), 1),
        Measurement("β = 0.9 needs fewer steps from this κ on", float(faster.min()) if len(faster) else np.inf),
        at_least(
            f"two features of tumours: gradient descent's steps over momentum's, median of {options.seeds}",
            np.median(speedup),
            2,
        ),
        Measurement("two features of tumours: the same, worst seed", float(speedup.min())),
        Measurement(
            "two features of tumours: condition number at the minimum, median", float(np.median(real["condition"]))
        ),
    ]
    columns = (*COLOUR, *(f"{name}, {what}" for name in NAMES for what in ("theory's settings", "closed form")))
    rows = tuple(
        (str(stretch), *(float(np.median(steps[name][i])) for name in columns)) for i, stretch in enumerate(stretches)
    )
    return Result(
        tuple(measurements),
        drawn,
        (Table("Steps to 1e-6 of the distance, median of the seeds", ("κ", *columns), rows),),
    )


def plot(result: Result) -> Figure:
    """The two valleys from above, steps against the condition number, and travel across against the learning rate."""
    drawn, canvas = result.drawn, Figure(figsize=(10, 7.6))
    panels: Any = canvas.subplots(2, 2)
    zig_zag, real = drawn["zig-zag"], drawn["tumours"]
    _draw_paths(panels[0, 0], zig_zag, 40)
    panels[0, 0].set_title("A valley with κ = 100, both at α = 1.9/λ, 40 steps")
    _draw_steps(panels[0, 1], drawn)
    for name in NAMES:
        panels[1, 0].plot(zig_zag["rates"], zig_zag[name]["across"], color=COLOUR[name], label=name)
    panels[1, 0].set(
        xlabel="learning rate α, in units of 1/λ", ylabel="travel across, of the start's distance", ylim=(0, None)
    )
    panels[1, 0].set_title("Travel across: less only where descent zig-zags")
    panels[1, 0].legend()
    _draw_paths(panels[1, 1], real, 40)
    panels[1, 1].plot(*real["minimum"], "+", color="black", markersize=9)
    panels[1, 1].annotate("minimum", real["minimum"], (7, -4), textcoords="offset points")
    panels[1, 1].set_title(f"Tumours: {FEATURES[0][5:]} and {FEATURES[1][5:]}, both at α = 1.95/λ, 40 steps")
    return canvas


def _draw_paths(panel: Axes, drawn: dict[str, Any], count: int) -> None:
    two_weights.draw_contours(panel, drawn["seen"])
    for name, marker in zip(NAMES, "os", strict=True):
        path = drawn[name]["path"][: count + 1]
        panel.plot(*path.T, color=COLOUR[name], marker=marker, markersize=2.5, linewidth=1, label=name)
    panel.set(xlim=drawn["seen"]["w_1"][[0, -1]], ylim=drawn["seen"]["w_2"][[0, -1]])
    panel.grid(False)
    panel.legend(loc="lower left")


def _draw_steps(panel: Axes, drawn: dict[str, Any]) -> None:
    """Points for every seed at the best settings, lines for the closed form at theory's."""
    stretches, steps = drawn["stretches"], drawn["quadratics"]
    for (name, colour), marker in zip(COLOUR.items(), "os^", strict=True):
        panel.plot(stretches, steps[name], marker, color=colour, markersize=4, fillstyle="none")
        label = name
        if name in NAMES:
            panel.plot(stretches, np.median(steps[f"{name}, closed form"], axis=1), color=colour, linewidth=1)
            label = f"{name}: exponent {np.median(drawn[f'{name}, exponent']):.2f}"
        panel.plot([], [], marker, color=colour, fillstyle="none", label=label)
    panel.plot([], [], color=GREY, linewidth=1, label="closed form")
    panel.set(xlabel="condition number κ", ylabel="steps to 10⁻⁶ of the distance", xscale="log", yscale="log")
    panel.set_title("Steps at the best settings, every seed")
    panel.legend(loc="upper left")
