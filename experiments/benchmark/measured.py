"""One training workload, measured: time, memory, compile time, and whether all train alike."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.benchmark.contestants import Contestant, expert, ours, ours_fit
from experiments.benchmark.peers import PEERS
from experiments.benchmark.timing import Timed, compile_all, interleaved, matrix_product
from experiments.benchmark.workloads import Weights, Workload, problem

EXPERT, STEP, FIT, MATRIX = "expert JAX", "jaxnet, step", "jaxnet, fit", "matrix product"


def training(
    workload: Workload, peers: Sequence[str], attempts: int, rounds: Iterable[Any], quick: bool
) -> dict[str, Any]:
    """Seconds a step of each contestant in each round, and the rest of what is known of them, by name.

    Args:
        workload: what is trained.
        peers: who is to be measured beside jaxnet and expert JAX.
        attempts: how often each program is compiled.
        rounds: is looped over while clocks run.
        quick: fewer epochs in a round.
    """
    given = problem(workload)
    programs, fit = {EXPERT: expert(given), STEP: ours(given)}, ours_fit(given)
    loops = {PEERS[name].title: PEERS[name].contestant(given) for name in peers} if workload.peers else {}
    epochs = max(1, workload.epochs // 8) if quick else workload.epochs
    lower = {name: partial(one.lower, epochs) for name, one in programs.items() if one.lower}
    compiled = compile_all(lower, attempts)
    cost, weights = apart(given.weights, {**programs, FIT: fit, **loops}, workload.peer_epochs)
    product, product_flops = matrix_product()
    runs = {MATRIX: product}
    runs |= {name: timed(one, workload, epochs) for name, one in {**programs, FIT: fit}.items()}
    runs |= {name: timed(one, workload, workload.peer_epochs) for name, one in loops.items()}
    seconds = interleaved(runs, rounds)
    rate = product_flops / seconds.pop(MATRIX)
    return {
        "seconds": seconds,
        "rate": rate,
        "share": {name: float(np.median(workload.flops() / times / rate)) for name, times in seconds.items()},
        "compile": {name: program.seconds for name, program in compiled.items()},
        "temporary": {name: program.temporary for name, program in compiled.items()},
        "cost_apart": cost,
        "weights_apart": weights,
    }


def timed(contestant: Contestant, workload: Workload, epochs: int) -> Timed:
    """So many epochs of it."""
    return Timed(lambda start: contestant.train(start, epochs), epochs * workload.batches, contestant.prepare)


def apart(start: Weights, contestants: dict[str, Contestant], epochs: int) -> tuple[dict[str, float], dict[str, float]]:
    """How far each ends from expert JAX: its costs over the largest cost, its weights over the distance trained."""
    ends = {name: one.read(one.train(one.prepare(), epochs)) for name, one in contestants.items() if one.read}
    costs, weights = ends[EXPERT]
    trained = distance(weights, start)
    return (
        {name: float(np.abs(end[0] - costs).max() / np.abs(costs).max()) for name, end in ends.items()},
        {name: distance(end[1], weights) / trained for name, end in ends.items()},
    )


def distance(one: Weights, other: Weights) -> float:
    """‖θ - θ'‖ over all layers."""
    flat = (np.concatenate([leaf.ravel() for layer in weights for leaf in layer]) for weights in (one, other))
    return float(np.linalg.norm(np.subtract(*flat)))
