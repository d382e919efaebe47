"""The bars of the claim, and the tables behind them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.benchmark.many_at_once import ALONE, BATCH, EXAMPLES, NORMS, TOGETHER
from experiments.benchmark.measured import EXPERT, FIT, STEP
from experiments.benchmark.peers import PEERS
from experiments.benchmark.timing import ratio
from experiments.benchmark.verifying import CHECK_GRADS, VERIFY
from experiments.benchmark.verifying import SMALL as SMALL_RULES
from experiments.benchmark.watching import NONFINITE, TWENTIETH, UNWATCHED
from experiments.benchmark.workloads import DEEP, DEEP_ADAM, LARGE, SMALL
from experiments.experiment import Measurement, Table, at_least, at_most

OVER_EXPERT = {DEEP: 0.80, DEEP_ADAM: 0.95}
NO_SLOWER = 1.05  # of the others
TEMPORARY = {DEEP: 0.6}  # of the others 1
AT_ONCE = {"256x64-32-10": 0.8, "256x2-3-2-1": 0.4}
# Adam's first updates are α sign(g), so that rounding turns those whose gradient is nearly 0.
APART = 0.02
COSTS_APART = 1e-3
NEARLY_ADAM = "scikit-learn"  # places ε elsewhere


@dataclass
class Judge:
    """Collects measurements; those of time decide nothing in a quick run, which is too short to tell."""

    decides: bool
    _times: list[Measurement] = field(default_factory=list)
    _others: list[Measurement] = field(default_factory=list)
    _peers: dict[tuple[str, float], float] = field(default_factory=dict)  # the least of several, by name and bar

    def training(self, name: str, one: dict[str, Any]) -> None:
        """One network."""
        seconds, memory, compiled = one["seconds"], one["temporary"], one["compile"]
        over = ratio(seconds, STEP, EXPERT)
        self._time(at_most(f"{name}: a step over expert JAX's", over, OVER_EXPERT.get(name, NO_SLOWER)))
        self._times.append(Measurement(f"{name}: fit over expert JAX, a step", ratio(seconds, FIT, EXPERT)))
        self._time(at_most(f"{name}: compile time over expert JAX's", ratio(compiled, STEP, EXPERT), 1.2))
        bar = TEMPORARY.get(name, 1)
        self._others.append(at_most(f"{name}: temporary memory over expert JAX's", memory[STEP] / memory[EXPERT], bar))
        farthest, value = _largest(one["cost_apart"])
        self._others.append(at_most(f"{name}: costs apart from expert JAX's, {farthest}", value, COSTS_APART))
        farthest, value = _largest({key: v for key, v in one["weights_apart"].items() if key != NEARLY_ADAM})
        title = f"{name}: weights apart from expert JAX's, of the way trained, {farthest}"
        self._others.append(at_most(title, value, APART))
        if name == LARGE:
            self._time(at_least(f"{name}: share of the machine's matrix products", one["share"][STEP], 0.75))
        for peer in (PEERS[key].title for key in PEERS if key != "loop"):
            if peer in seconds and name in (*SMALL, LARGE):
                key = (
                    (f"{name}: {peer} over jaxnet", 1.1)
                    if name == LARGE
                    else (f"small networks: {peer} over jaxnet, least", 8)
                )
                self._peers[key] = min(self._peers.get(key, np.inf), ratio(seconds, peer, STEP))

    def many(self, name: str, one: dict[str, Any], apart: float) -> None:
        """Per-example norms or networks side by side."""
        seconds = one["seconds"]
        if name == "norms":
            self._time(at_least("per-example norms: vmap(grad) over jaxnet", ratio(seconds, EXAMPLES, NORMS), 15))
            self._time(at_most("per-example norms over one batch gradient", ratio(seconds, NORMS, BATCH), 1.1))
        else:
            title = f"{name.replace('x', ' of ')} at once: time a network over one alone"
            self._time(at_most(title, ratio(seconds, TOGETHER, ALONE), AT_ONCE[name]))
        self._others.append(at_most(f"{name}: largest difference of the results", apart, 1e-3))

    def watching(self, seconds: dict[str, np.ndarray]) -> None:
        """What `fit` pays for looking."""
        title = "fit, 64-32-10: looking for numbers that are not finite, over not looking"
        self._time(at_most(title, ratio(seconds, NONFINITE, UNWATCHED), 1.03))
        title = "fit, 64-32-10: observing every twentieth step, over none"
        self._time(at_most(title, ratio(seconds, TWENTIETH, UNWATCHED), 1.1))

    def depth(self, seconds: dict[str, np.ndarray]) -> None:
        """Compile time of `repeat`."""
        self._time(at_most("compiling 1000 layers over 10", ratio(seconds, "1000", "10"), 1.3))

    def imports(self, seconds: Any) -> None:
        """What a process pays once."""
        self._time(at_most("import jaxnet: seconds on top of jax and optax", seconds, 0.8))

    def verifying(self, seconds: dict[str, np.ndarray]) -> None:
        """What a verdict costs, beside `check_grads` and in seconds."""
        for rule in SMALL_RULES:
            over = ratio(seconds, f"{VERIFY}: {rule}", f"{CHECK_GRADS}: {rule}")
            self._time(at_most(f"{rule}: the first verdict in a process over check_grads", over, 2.0))
        others = (name for name in seconds if not name.startswith((VERIFY, CHECK_GRADS)))
        self._times += [Measurement(f"{name}: seconds", _median(seconds[name])) for name in others]

    def measurements(self) -> list[Measurement]:
        """All of them."""
        times, self._times = self._times, []
        for (name, bar), value in self._peers.items():
            self._time(at_least(name, value, bar))
        peers, self._times = self._times, times
        return [*times, *peers, *self._others]

    def _time(self, measurement: Measurement) -> None:
        self._times.append(measurement if self.decides else measurement._replace(holds=None))


def _largest(values: dict[str, float]) -> tuple[str, float]:
    """The name and the value of the largest; not a number is larger than any."""
    return max(values.items(), key=lambda item: (np.isnan(item[1]), item[1]))


def tables(drawn: dict[str, Any]) -> tuple[Table, ...]:
    """The ratios at a glance, then the numbers behind them."""
    training = drawn.get("training", {})
    names = list(dict.fromkeys(name for one in training.values() for name in one["seconds"] if name != EXPERT))
    found = []
    if training:
        rows = tuple(
            (name, *(f"{ratio(one['seconds'], key, EXPERT):.2f}" if key in one["seconds"] else "" for key in names))
            for name, one in training.items()
        )
        found.append(Table("Time of a step over expert JAX's, medians", ("network", *names), rows))
        columns = ("network", "contestant", "µs a step", "middle half", "of matrix products", "weights apart")
        rows = tuple(_row(name, key, one) for name, one in training.items() for key in one["seconds"])
        found.append(Table("Training steps", columns, rows))
        rows = tuple(
            (name, key, f"{_median(one['compile'][key]):.3f}", f"{one['temporary'][key] / 1e6:.4g}")
            for name, one in training.items()
            for key in one["compile"]
        )
        found.append(Table("Compiled programs", ("network", "contestant", "seconds to compile", "temporary MB"), rows))
    if many := drawn.get("many"):
        rows = tuple(
            (name, key, *_microseconds(times), f"{one['temporary'][key] / 1e6:.4g}" if one["temporary"] else "")
            for name, one in many.items()
            for key, times in one["seconds"].items()
        )
        columns = ("workload", "contestant", "µs a network and step, or a batch", "middle half", "temporary MB")
        found.append(Table("Many at once", columns, rows))
    return tuple(found)


def _row(name: str, key: str, one: dict[str, Any]) -> tuple[str, ...]:
    apart = f"{one['weights_apart'][key]:.1e}" if key in one["weights_apart"] else ""
    return name, key, *_microseconds(one["seconds"][key]), f"{100 * one['share'][key]:.2g} %", apart


def _microseconds(seconds: np.ndarray) -> tuple[str, str]:
    low, middle, high = 1e6 * np.quantile(seconds, (0.25, 0.5, 0.75))
    return f"{middle:.4g}", f"{low:.4g} to {high:.4g}"


def _median(values: np.ndarray) -> float:
    return float(np.median(values))
