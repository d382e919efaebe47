"""Fair clocks: everything interleaved in one process, compilation from nothing, and the machine's own rate."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

MATRIX = 1024  # rows and columns of the matrices whose product sets the machine's rate


class Timed(NamedTuple):
    """What a clock is held to: `run(prepare())`, where only `run` is timed, and how many steps that is."""

    run: Callable[[Any], Any]
    steps: int = 1
    prepare: Callable[[], Any] = lambda: None


class Compiled(NamedTuple):
    """Seconds to trace and compile a program, of each attempt, and the bytes it needs beside arguments and results."""

    seconds: np.ndarray
    temporary: float


def interleaved(runs: Mapping[str, Timed], rounds: Iterable[Any]) -> dict[str, np.ndarray]:
    """Seconds a step of each run in each round, after one run that does not count.

    Neighbours in time share the machine's mood, and every other round goes backwards so that none always comes first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for timed in runs.values():
        jax.block_until_ready(timed.run(timed.prepare()))
    for number, _ in enumerate(rounds):
        gc.collect()
        gc.disable()
        try:
            for name in reversed(list(runs)) if number % 2 else runs:
                start = jax.block_until_ready(runs[name].prepare())
                started = time.perf_counter()
                jax.block_until_ready(runs[name].run(start))
                seconds[name].append((time.perf_counter() - started) / runs[name].steps)
        finally:
            gc.enable()
    return {name: np.array(times) for name, times in seconds.items()}


def ratio(seconds: Mapping[str, np.ndarray], of: str, over: str) -> float:
    """The median of the rounds' ratios."""
    return float(np.median(seconds[of] / seconds[over]))


def matrix_product() -> tuple[Timed, int]:
    """A large float32 product, and its floating-point operations: the rate that a step is held against."""
    a, b = (jax.random.normal(jax.random.key(i), (MATRIX, MATRIX), jnp.float32) for i in (0, 1))
    product = jax.jit(jnp.matmul)
    return Timed(lambda _: product(a, b)), 2 * MATRIX**3


@contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Nothing compiled earlier is found on disk; JAX asks whether it has a cache only once, hence the resets."""
    enabled = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def compile_all(lower: Mapping[str, Callable[[], Any]], attempts: int) -> dict[str, Compiled]:
    """Each program traced and compiled from nothing, interleaved, after a first attempt that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in lower}
    temporary: dict[str, float] = {}
    with without_compilation_cache():
        for attempt in range(attempts + 1):
            for name in reversed(list(lower)) if attempt % 2 else lower:
                jax.clear_caches()
                started = time.perf_counter()
                program = lower[name]().compile()
                seconds[name].append(time.perf_counter() - started)
                memory = program.memory_analysis()
                temporary[name] = float("nan") if memory is None else float(memory.temp_size_in_bytes)
    return {name: Compiled(np.array(times[1:]), temporary[name]) for name, times in seconds.items()}
