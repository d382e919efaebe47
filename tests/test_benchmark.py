"""The benchmark: all train the same, counts are right, ratios are what the clock says, bad names refused."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from experiments import benchmark
from experiments.__main__ import app
from experiments.benchmark import CHOICES, many_at_once, startup, verifying, watching
from experiments.benchmark.contestants import expert, ours, ours_fit, plain_cost, plain_params
from experiments.benchmark.figure import plot
from experiments.benchmark.judgement import APART, Judge, tables
from experiments.benchmark.measured import EXPERT, FIT, STEP, apart, distance
from experiments.benchmark.peers import PEERS, importable
from experiments.benchmark.timing import Timed, compile_all, interleaved, ratio, without_compilation_cache
from experiments.benchmark.workloads import LARGE, Workload, problem
from experiments.experiment import Options, Result
from tests.compare import assert_close

pytestmark = pytest.mark.one_in(2)

WORKLOADS = {
    "Adam": Workload((6, 5, 3), 8, 3, 2),
    "descent": Workload((4, 3, 2, 1), 8, 1, 2, hidden="sigmoid", loss="binary", adam=False, learning_rate=0.1),
    "deep, Adam": Workload((6,), 8, 2, 1, hidden="tanh", loss="squares", depth=3),
    "deep, descent": Workload((6,), 8, 2, 1, hidden="tanh", loss="squares", adam=False, depth=3, learning_rate=0.1),
}
OURS = {"step": ours, "fit": ours_fit}
# `fit` shuffles mini-batches, which is other training.
OURS_ON = [*(("step", workload) for workload in WORKLOADS), ("fit", "descent")]
problem_of = functools.cache(lambda workload: problem(WORKLOADS[workload]))
expert_of = functools.cache(lambda workload: expert(problem_of(workload)))


@pytest.fixture(autouse=True)
def as_users_run_it():
    """The peers rely on JAX's own defaults, which the other tests make stricter."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(False))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        yield


def apart_from_expert(workload, contestant):
    given = problem_of(workload)
    costs, weights = apart(given.weights, {EXPERT: expert_of(workload), "other": contestant(given)}, 2)
    return costs["other"], weights["other"]


@pytest.mark.one_in(6)
@pytest.mark.parametrize(("name", "workload"), OURS_ON)
def test_jaxnet_trains_as_expert_jax_does(name, workload):
    assert max(apart_from_expert(workload, OURS[name])) < 1e-5


@pytest.mark.one_in(6)
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("workload", ["Adam", "descent"])
def test_peers_train_as_expert_jax_does(workload, peer):
    if not importable(peer):
        pytest.skip(f"{peer} is not installed")
    costs, weights = apart_from_expert(workload, PEERS[peer].contestant)
    assert costs < 1e-5
    # scikit-learn's Adam adds its ε before the bias is corrected.
    assert weights < (1e-3 if peer == "scikit-learn" else 1e-5)


def test_another_learning_rate_is_far_apart():
    given = problem_of("Adam")
    other = given._replace(workload=given.workload._replace(learning_rate=1.03e-3))
    _, weights = apart(given.weights, {EXPERT: expert_of("Adam"), STEP: ours(other)}, 2)
    assert weights[STEP] > APART


def test_distance_is_the_norm_over_all_layers():
    one = [(np.zeros((1, 2)), np.zeros(2)), (np.zeros((2, 1)), np.zeros(1))]
    other = [(np.array([[1.0, 2.0]]), np.array([0.0, 2.0])), (np.array([[4.0], [0.0]]), np.zeros(1))]
    assert distance(one, other) == 5


def test_operations_are_those_that_xla_counts():
    """With layers so wide that what is not a matrix product hardly counts."""
    workload = Workload((64, 64, 64, 64), 512, 1, 1)
    given = problem(workload)
    gradient = jax.jit(jax.value_and_grad(plain_cost(workload)))
    counted = gradient.lower(plain_params(given), given.x[0], given.y[0]).compile().cost_analysis()
    assert workload.flops() == 2 * 512 * 64 * 64 * (3 + 2 + 3)
    assert counted is not None
    assert counted["flops"] == pytest.approx(workload.flops(), rel=0.05)


def test_operations_of_a_stack_are_those_of_its_layers():
    assert WORKLOADS["deep, Adam"].flops() == Workload((6, 6, 6, 6), 8, 2, 1).flops() == 2 * 8 * 36 * (3 + 3 + 2)


def test_ratio_is_the_median_of_the_rounds():
    seconds = {"a": np.array([2.0, 3.0, 40.0]), "b": np.array([1.0, 2.0, 10.0])}
    assert ratio(seconds, "a", "b") == 2.0


def test_rounds_are_interleaved_and_every_other_one_goes_backwards():
    order = []
    runs = {name: Timed(lambda start, name=name: order.append(name + start), 2, lambda: "!") for name in "ab"}
    seconds = interleaved(runs, range(3))
    assert order == ["a!", "b!", "a!", "b!", "b!", "a!", "a!", "b!"]
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_only_the_run_is_timed_and_by_the_step(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def wait(seconds):
        clock[0] += seconds

    seconds = interleaved({"a": Timed(lambda _: wait(6), 3, lambda: wait(100))}, range(2))
    assert seconds["a"].tolist() == [2, 2]


def test_compile_time_is_measured_without_the_cache_on_disk(tmp_path):
    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    program = jax.jit(lambda x: jnp.sin(x) @ x)
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compiled = compile_all({"a": lambda: program.lower(jnp.ones((3, 3)))}, 2)
        assert len(compiled["a"].seconds) == 2
        assert not list(tmp_path.iterdir())
        program.lower(jnp.ones((4, 4))).compile()
        assert list(tmp_path.iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        with without_compilation_cache():
            pass


def test_what_a_process_pays_once_is_not_found_on_disk():
    assert startup.printed("import jax; print(jax.config.jax_enable_compilation_cache)") == "False\n"


@pytest.mark.parametrize("rule", [*verifying.SMALL.values(), *verifying.REPEATED.values()])
def test_the_rules_whose_verdicts_are_timed_are_right(rule):
    arguments = [a[:8, :8] if a.ndim == 2 else a[:8] if a.ndim == 1 else a for a in rule.arguments()]
    outputs, by_autodiff = jax.vjp(rule.function, *arguments)
    cotangent = jax.random.normal(jax.random.key(3), outputs.shape)
    for by_hand, expected in zip(rule.rule(cotangent, *arguments), by_autodiff(cotangent), strict=True):
        if by_hand is not None:
            np.testing.assert_allclose(by_hand, expected, rtol=0, atol=1e-5)


def test_the_wrong_rules_whose_verdicts_are_timed_are_wrong():
    a, ct = jnp.asarray([0.3, -1.0, 2.0]), jnp.ones(3)
    right = jax.vjp(verifying.chain, a)[1](ct)[0]
    for rule in verifying.WRONG.values():
        assert (abs(rule((a,), ct)[0] / right - 1) > 1e-3).any()


@pytest.mark.parametrize(("ratio", "holds"), [(1.9, True), (2.1, False)])
def test_first_verdict_may_take_twice_the_time_of_check_grads(ratio, holds):
    times = {verifying.VERIFY: ratio, verifying.CHECK_GRADS: 1.0}
    seconds = {f"{judge}: {rule}": np.full(3, times[judge]) for rule in verifying.SMALL for judge in times}
    judge = Judge(decides=True)
    judge.verifying(seconds | {verifying.NETWORK: np.full(3, 9.0)})
    *ratios, network = judge.measurements()
    assert [measured.holds for measured in ratios] == [holds] * len(verifying.SMALL)
    assert (network.value, network.holds) == (9.0, None)


def known(step):
    """What `measured.training` returns, of known times: expert JAX's 1 s, and peers that take 8 s."""
    times = {EXPERT: 1.0, STEP: step, FIT: 2 * step, "Equinox": 8.0}
    return {
        "seconds": {name: np.full(3, value) for name, value in times.items()},
        "share": dict.fromkeys(times, 0.8),
        "compile": {EXPERT: np.ones(3), STEP: np.ones(3)},
        "temporary": {EXPERT: 100.0, STEP: 100.0},
        "cost_apart": {EXPERT: 0.0, STEP: 1e-7, "Equinox": 1e-7},
        "weights_apart": {EXPERT: 0.0, STEP: 1e-4, "Equinox": 1e-4},
    }


@pytest.mark.parametrize(("step", "holds"), [(0.9, True), (1.06, False)])
def test_bars_are_judged_from_known_times(step, holds):
    judge = Judge(decides=True)
    judge.training("2-3-2-1", known(step))
    judge.training(LARGE, known(step))
    found = {m.name: m for m in judge.measurements()}
    assert found["2-3-2-1: a step over expert JAX's"].value == step
    assert found["2-3-2-1: fit over expert JAX, a step"].value == 2 * step
    assert found["small networks: Equinox over jaxnet, least"].value == pytest.approx(8 / step)
    assert found["small networks: Equinox over jaxnet, least"].holds is holds
    assert found[f"{LARGE}: Equinox over jaxnet"].expected == "≥ 1.1"
    assert Result(tuple(found.values()), {}).holds is holds


def test_a_contestant_that_trains_otherwise_breaks_the_claim():
    one = known(0.9)
    one["weights_apart"]["Equinox"] = np.nan
    judge = Judge(decides=False)
    judge.training("2-3-2-1", one)
    assert [m.name for m in judge.measurements() if m.holds is False] == [
        "2-3-2-1: weights apart from expert JAX's, of the way trained, Equinox"
    ]


def test_times_of_a_quick_run_decide_nothing():
    judge = Judge(decides=False)
    judge.training("2-3-2-1", known(5.0))
    judge.depth({"10": np.ones(1), "1000": np.full(1, 9.0)})
    assert Result(tuple(judge.measurements()), {}).holds


def test_tables_and_figure_show_every_contestant():
    seconds = {many_at_once.NORMS: np.ones(3), many_at_once.EXAMPLES: np.full(3, 20.0), many_at_once.BATCH: np.ones(3)}
    many = {"norms": {"seconds": seconds, "temporary": dict.fromkeys(seconds, 1e6)}}
    drawn = {"training": {"2-3-2-1": known(0.9)}, "many": many, "depth": {"10": np.ones(3), "1000": np.ones(3)}}
    at_a_glance, *_ = tables(drawn)
    assert at_a_glance.columns == ("network", STEP, FIT, "Equinox")
    assert at_a_glance.rows == (("2-3-2-1", "0.90", "1.80", "8.00"),)
    assert len(plot(Result((), drawn)).axes) == 4
    assert len(plot(Result((), {"depth": drawn["depth"]})).axes) == 1


def test_norms_of_examples_are_those_of_autodiff():
    comparison = many_at_once.norms(Workload((6, 5, 3), 8, 1, 1))
    assert comparison.apart < 1e-5


def test_watched_or_not_the_same_is_trained():
    runs = watching.runs(Workload((6, 5, 3), 8, 2, 1), longer=12)
    unwatched, *others = (timed.run(timed.prepare()).params for timed in runs.values())
    for params in others:
        assert_close(params, unwatched, 1e-6)
    assert {timed.steps for timed in runs.values()} == {24}


@pytest.mark.parametrize(("slower", "bar"), [(watching.NONFINITE, 1.03), (watching.TWENTIETH, 1.1)])
def test_what_watching_may_cost_is_judged(slower, bar):
    for factor, holds in ((bar - 0.01, True), (bar + 0.01, False)):
        judge = Judge(decides=True)
        judge.watching({name: np.full(3, factor if name == slower else 1.0) for name in watching.OPTIONS})
        assert Result(tuple(judge.measurements()), {}).holds is holds


@pytest.fixture
def quick_run(key, monkeypatch):
    monkeypatch.setattr(benchmark, "WORKLOADS", {"64-32-10": WORKLOADS["Adam"]})
    chosen = {"workloads": ("64-32-10", "256x64-32-10"), "peers": ("loop",)}
    return benchmark.run(Options(key, quick=True, chosen=chosen), lambda steps, description: list(steps))


def test_benchmark_in_a_quick_run(quick_run):
    found = {m.name: m for m in quick_run.measurements}
    assert found["256x64-32-10: largest difference of the results"].holds
    assert found["64-32-10: weights apart from expert JAX's, of the way trained, jaxnet, step"].holds
    assert [row[1] for row in quick_run.tables[1].rows] == [EXPERT, STEP, FIT, "JAX loop"]
    assert len(plot(quick_run).axes) == 3


def test_command_measures_what_is_chosen(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(benchmark.measured, "training", lambda *of: asked.append(of[:2]) or known(0.9))
    code, output = command("--quick", "--peers", "loop", "--workloads", "64-32-10", "--out", tmp_path)
    assert code == 0
    assert asked == [(benchmark.WORKLOADS["64-32-10"], ["loop"])]
    assert "64-32-10: a step over expert JAX's 0.9" in output
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "python -m experiments benchmark --peers loop --workloads 64-32-10 --quick" in page
    assert "JAX loop" not in page


def command(*arguments):
    result = CliRunner().invoke(app, ["benchmark", *map(str, arguments)], catch_exceptions=False)
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--peers", "flax,keras"), f"error: no peer is named 'keras'; there are {', '.join(CHOICES['peers'])}"),
        (("--workloads", "3-2-1"), "error: no workload is named '3-2-1'; there are 2-3-2-1, 64-32-10, "),
    ],
)
def test_unknown_names_are_refused_in_one_line(arguments, message):
    code, output = command(*arguments)
    assert code == 2
    assert output.startswith(message)


def test_a_peer_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setitem(PEERS, "pytorch", PEERS["pytorch"]._replace(module="no_such_module"))
    assert not importable("pytorch")
    code, output = command("--peers", "pytorch")
    assert code == 2
    assert output == "error: pytorch is not installed; the extra `benchmark` installs every peer but PyTorch"
