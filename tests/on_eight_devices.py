"""Parallel training on eight devices, which `test_parallel.py` has JAX simulate in a process of its own."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import jaxnet
from tests.compare import assert_close, random_like
from tests.parallel_training import (
    BATCH_SIZE,
    FORMS,
    LOSS,
    NETWORK,
    OPTIMIZER,
    STEPS,
    batches,
    start,
    train_in_parallel,
    trained_on_one_device,
)

ALONG_ALL = ("data",)


@pytest.fixture(scope="module")
def mesh():
    mesh = jaxnet.data_mesh()
    assert mesh.size == 8, "needs XLA_FLAGS=--xla_force_host_platform_device_count=8"
    return mesh


@pytest.fixture(scope="module")
def batch():
    x, y = batches()[0]
    return jnp.asarray(x), jnp.asarray(y)


def specs(tree):
    return [leaf.sharding.spec for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_one_device(form, mesh, batch):
    expected = jax.jit(jaxnet.cost_and_gradient(NETWORK, LOSS))(start().params, *batch)
    state = jaxnet.place_state(start(), mesh, shard_parameters=FORMS[form]["shard_parameters"])
    if form == "written out":
        function = jaxnet.training.all_reduced_cost_and_gradient(NETWORK, LOSS, mesh)
    else:
        function = jaxnet.cost_and_gradient(NETWORK, LOSS)
    found = jax.jit(function)(state.params, *jaxnet.place_batch(*batch, mesh=mesh))
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_hundred_steps_are_those_of_one_device(form, mesh):
    params, costs = trained_on_one_device(STEPS)
    assert costs[-10:].mean() < 0.8 * costs[:10].mean()
    state, found = train_in_parallel(form, mesh, batches())
    assert_close(found, costs, 1e-12)
    assert_close(state.params, params, 1e-12)
    assert int(state.step) == STEPS
    # It stays where it was placed.
    assert specs(state) == specs(jaxnet.place_state(start(), mesh, shard_parameters=FORMS[form]["shard_parameters"]))


@pytest.mark.parametrize("form", ["sharded", "written out"])
def test_a_rule_that_looks_at_the_whole_gradient(form, mesh, key):
    """And layers whose sizes eight does not divide, and another loss."""
    network, loss = jaxnet.mlp((6, 16, 5, 1), jaxnet.relu), jaxnet.binary_cross_entropy
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1, momentum=0.9))
    x = random_like(jnp.zeros((16, 6)))
    y = (x[:, 0] > 0).astype(float)
    params = random_like(jax.eval_shape(network.init, key))
    state = jaxnet.training.TrainState(params, optimizer.init(params), key, jnp.zeros([], jnp.int32))
    expected = jax.jit(functools.partial(jaxnet.training.train_step, network, loss, optimizer))(state, x, y)

    keywords = dict(FORMS[form])
    step = functools.partial(keywords.pop("step"), network, loss, optimizer, mesh=mesh)
    step = functools.partial(step, **keywords) if keywords["shard_parameters"] else step
    found = jax.jit(step)(jaxnet.place_state(state, mesh, **keywords), *jaxnet.place_batch(x, y, mesh))
    assert_close(
        (found[0].params, found[0].opt_state, found[1]), (expected[0].params, expected[0].opt_state, expected[1]), 1e-12
    )


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((16,), (ALONG_ALL,)),
        ((64, 8), (ALONG_ALL,)),
        ((8, 64), (None, ALONG_ALL)),
        ((16, 16), (None, ALONG_ALL)),
        ((32, 100), (ALONG_ALL,)),  # the longest axis is none that eight divides
        ((3, 16, 16), (None, None, ALONG_ALL)),
        ((64, 10, 10), (ALONG_ALL,)),
        ((10, 12), ()),
        ((0, 4), ()),
        ((), ()),
    ],
)
def test_the_longest_axis_that_the_devices_divide_is_sharded(shape, spec, mesh):
    array = jax.ShapeDtypeStruct(shape, jnp.float32)
    state: Any = jaxnet.training.TrainState(
        {"weight": array}, {"mu": array}, jax.random.split(jax.random.key(0), 8), jnp.zeros(8)
    )
    sharded: Any = jaxnet.training.state_shardings(state, mesh, shard_parameters=True)
    assert sharded.params["weight"].spec == sharded.opt_state["mu"].spec == PartitionSpec(*spec)
    assert sharded.key.spec == sharded.step.spec == PartitionSpec()
    replicated = jaxnet.training.state_shardings(state, mesh)
    assert {sharding.spec for sharding in jax.tree.leaves(replicated)} == {PartitionSpec()}


def test_adams_moments_lie_where_the_parameters_do(mesh):
    state = jaxnet.place_state(start(), mesh, shard_parameters=True)
    assert specs(state.opt_state.mu) == specs(state.opt_state.nu) == specs(state.params)
    assert state.params[2][0].weight.addressable_shards[3].data.shape == (3, 16, 2)


def compiled_step(network, state, mesh, x, y, **keywords):
    step = functools.partial(jaxnet.parallel_step, network, LOSS, OPTIMIZER, mesh=mesh, **keywords)
    state = jaxnet.place_state(state, mesh, **keywords)
    return jax.jit(step, donate_argnums=0).lower(state, *jaxnet.place_batch(x, y, mesh)).compile()


def test_sharded_parameters_are_gathered_layer_by_layer_and_examples_never(mesh):
    """So that a device never holds them all: memory is what they are divided for."""
    hidden = jaxnet.serial(jaxnet.dense(64, 64, jaxnet.initializers.zeros), jaxnet.elementwise(jaxnet.tanh))
    network = jaxnet.serial(jaxnet.repeat(hidden, 32), jaxnet.dense(64, 10, jaxnet.initializers.zeros))
    state = jaxnet.init_state(network, OPTIMIZER, jax.random.key(0))
    x, y = np.zeros((8 * 5, 64)), np.zeros(8 * 5, int)
    replicated = compiled_step(network, state, mesh, x, y)
    sharded = compiled_step(network, state, mesh, x, y, shard_parameters=True)

    def size(compiled, kind):
        return getattr(compiled.memory_analysis(), f"{kind}_size_in_bytes")

    assert size(sharded, "argument") < size(replicated, "argument") / 7
    assert size(sharded, "temp") < size(replicated, "temp") / 2
    gathered = re.findall(r"= f64\[([\d,]+)\]\S* all-gather\(", str(sharded.as_text()))
    assert gathered
    assert set(gathered) <= {"1,64,64", "64,64", "1,64", "64", "10,64"}
    assert "all-gather" not in str(replicated.as_text())


def test_a_state_is_made_where_it_belongs(mesh, key):
    init = functools.partial(jaxnet.init_state, jaxnet.dense(16, 8), OPTIMIZER)
    shardings = jaxnet.training.state_shardings(jax.eval_shape(init, key), mesh, shard_parameters=True)
    made = jax.jit(init, out_shardings=shardings)(key)
    placed = jaxnet.place_state(init(key), mesh, shard_parameters=True)
    assert_close(made.params, placed.params, 1e-15)
    assert specs(made) == specs(placed)
    assert (jax.random.key_data(made.key) == jax.random.key_data(placed.key)).all()


def test_a_placed_state_is_a_copy(mesh):
    state = start()
    donated = jaxnet.place_state(state, mesh)
    jax.jit(lambda params: jax.tree.map(jnp.negative, params), donate_argnums=0)(donated.params)
    assert donated.params[0].weight.is_deleted()
    assert_close(state.params, start().params, 1e-15)


def test_a_batch_is_shared_evenly_and_in_order(mesh, batch):
    x, y = jaxnet.place_batch(*batch, mesh=mesh)
    assert specs((x, y)) == [PartitionSpec(ALONG_ALL)] * 2
    share = BATCH_SIZE // 8
    for shard in x.addressable_shards:
        first = shard.device.id * share
        assert (shard.data == batch[0][first : first + share]).all()


def test_other_meshes(mesh, batch):
    """Fewer devices, and two axes of which each divides the batch."""
    expected = jax.jit(jaxnet.cost_and_gradient(NETWORK, LOSS))(start().params, *batch)
    auto = (AxisType.Auto, AxisType.Auto)
    for other in (jaxnet.data_mesh(jax.devices()[:3]), jax.make_mesh((2, 4), ("host", "device"), auto)):
        function = jaxnet.training.all_reduced_cost_and_gradient(NETWORK, LOSS, other)
        state = jaxnet.place_state(start(), other, shard_parameters=True)
        assert_close(jax.jit(function)(state.params, *jaxnet.place_batch(*batch, mesh=other)), expected, 1e-12)


@pytest.mark.parametrize("m", [1, 7, 12, 20, 0])
def test_a_batch_that_does_not_divide_is_refused(m, mesh):
    x, y = jnp.ones((m, 6)), jnp.zeros(m, int)
    says = rf"8 devices cannot share {m} examples .* take a multiple of 8"
    with pytest.raises(ValueError, match=says):
        jaxnet.place_batch(x, y, mesh)
    state = jaxnet.place_state(start(), mesh)
    for form in FORMS.values():
        with pytest.raises(ValueError, match=says):
            jax.jit(functools.partial(form["step"], NETWORK, LOSS, OPTIMIZER, mesh=mesh))(state, x, y)


def test_one_example_without_a_batch_is_refused(mesh):
    with pytest.raises(ValueError, match=r"8 devices cannot share 0 examples \(y of shape \(\)\)"):
        jaxnet.place_batch(np.ones((8, 6)), np.ones([]), mesh)


def test_a_mesh_whose_axes_are_not_auto_is_refused(batch):
    explicit = jax.make_mesh((8,), ("data",), (AxisType.Explicit,))
    state = start()
    calls = [
        lambda: jaxnet.place_state(state, explicit),
        lambda: jaxnet.place_batch(*batch, mesh=explicit),
        lambda: jaxnet.parallel_step(NETWORK, LOSS, OPTIMIZER, state, *batch, mesh=explicit),
        lambda: jaxnet.training.all_reduce_step(NETWORK, LOSS, OPTIMIZER, state, *batch, mesh=explicit),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="a mesh needs axes of type Auto"):
            call()


def test_examples_that_came_unplaced_are_shared_all_the_same(mesh, batch):
    network = jaxnet.dense(6, 11)
    state = jaxnet.place_state(jaxnet.init_state(network, OPTIMIZER, jax.random.key(0)), mesh)
    step = functools.partial(jaxnet.parallel_step, network, LOSS, OPTIMIZER, mesh=mesh)
    program = str(jax.jit(step).lower(state, *batch).compile().as_text())
    assert f"f64[{BATCH_SIZE // 8},11]" in program
    assert f"f64[{BATCH_SIZE},11]" not in program


# The fronts ---------------------------------------------------------------------------------------------------------


SMALL = jaxnet.mlp((6, 16, 3), jaxnet.tanh)


def data():
    """100 examples: batches of 24 leave a rest of 4, which the devices cannot share."""
    x = np.random.default_rng(4).standard_normal((100, 6))
    return x, (x[:, :2] > 0).sum(-1)


def fit(**options):
    chosen: dict[str, Any] = {"key": jax.random.key(2), "batch_size": 24, "epochs": 4} | options
    return jaxnet.fit(SMALL, LOSS, OPTIMIZER, *data(), **chosen)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "observe_every": 3,
            "sample_weight": np.linspace(0, 1, 100),
            "validation": data(),
            "on_epoch": lambda state, history: None,
        },
        {"batch_size": None, "sample_weight": None},
    ],
    ids=["plain", "observed, weighted, validated", "all at once"],
)
def test_fit_is_that_of_one_device(options, mesh):
    if options.get("batch_size", 24) is None:
        with pytest.raises(ValueError, match="8 devices cannot share 100 examples"):
            fit(**options, mesh=mesh)
        return
    state, history = fit(**options, mesh=mesh)
    expected, alone = fit(**options)
    assert all(leaf.sharding.device_set == set(jax.devices()) for leaf in jax.tree.leaves(state.params))
    assert_close(state.params, expected.params, 1e-12)
    assert_close(history.cost, alone.cost, 1e-12)
    assert_close(dict(history.validation), dict(alone.validation), 1e-12)
    for got, number in zip(history.diagnostics or (), alone.diagnostics or (), strict=True):
        np.testing.assert_allclose(got, number, rtol=1e-9)


def test_each_device_computes_its_share(mesh):
    """In the program of one device, the first product has 3 rows of the batch's 24."""
    from importlib import import_module

    from jaxnet.examples import Examples
    from jaxnet.training.epochs import Task
    from jaxnet.training.parallel import place_examples

    run_epochs = import_module("jaxnet.training.fit")._run_epochs
    examples = place_examples(Examples(*map(jnp.asarray, data())), mesh)
    state = jaxnet.place_state(jaxnet.init_state(SMALL, OPTIMIZER, jax.random.key(0)), mesh)
    text = run_epochs.lower(Task(SMALL, LOSS, 24, 1, mesh=mesh), OPTIMIZER, state, examples, 1).compile().as_text()
    assert re.search(r"f64\[3,16\]\S* dot\(", text)
    assert "all-reduce" in text


def test_fit_resumes_bit_for_bit(tmp_path, mesh):
    whole = fit(mesh=mesh)
    fit(mesh=mesh, epochs=2, checkpoint=tmp_path)
    resumed = fit(mesh=mesh, checkpoint=tmp_path)
    for one, other in zip(
        *(jax.tree.leaves((s.params, s.opt_state, h.cost)) for s, h in (whole, resumed)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_fit_batches_is_that_of_one_device(mesh):
    streams: Any = [
        jaxnet.fit_batches(SMALL, LOSS, OPTIMIZER, batches()[:20], key=jax.random.key(2), mesh=m) for m in (mesh, None)
    ]
    assert_close(streams[0][0].params, streams[1][0].params, 1e-12)
    assert_close(streams[0][1].cost, streams[1][1].cost, 1e-12)


def test_sweep_is_that_of_one_device(mesh):
    optimizers, keys = jax.vmap(jaxnet.adam)(jnp.geomspace(1e-3, 1e-1, 3)), jax.random.split(jax.random.key(0), 4)
    options: Any = {"keys": keys, "batch_size": 24, "epochs": 3, "chunk": 2, "validation": data()}
    state, history = jaxnet.sweep(SMALL, LOSS, optimizers, *data(), **options, mesh=mesh)
    expected, alone = jaxnet.sweep(SMALL, LOSS, optimizers, *data(), **options)
    assert_close(state.params, expected.params, 1e-12)
    assert_close(history.cost, alone.cost, 1e-12)
    assert_close(history.validation["cost"], alone.validation["cost"], 1e-12)


def test_batches_that_devices_cannot_share_are_refused(mesh):
    with pytest.raises(ValueError, match="8 devices cannot share batches of 20 evenly: take a multiple"):
        fit(batch_size=20, mesh=mesh)
