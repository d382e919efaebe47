"""A program as a user writes it, with every public name in it: it runs, and pyright checks its types with the tests."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet


class Scaled(jaxnet.Layer):
    """A user's layer: z = 2a."""

    def init(self, key):
        del key
        return ()

    def forward(self, params, inputs, *, key=None):
        del params, key
        return 2.0 * inputs, None

    def backward(self, params, cache, grad_outputs):
        del params, cache
        return 2.0 * grad_outputs, ()


def data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(16, 4))
    stats = jaxnet.fit_standardization(x)
    return np.asarray(jaxnet.standardize(stats, x)), random.integers(0, 2, 16)


def network() -> jaxnet.Layer:
    hidden = jaxnet.serial(jaxnet.dense(4, 4), jaxnet.elementwise(jaxnet.gelu))
    deep = jaxnet.repeat(jaxnet.residual(hidden), 2)
    wide = jaxnet.concatenate(Scaled(), jaxnet.mlp([4, 3], hidden=jaxnet.relu, output=jaxnet.sigmoid))
    return jaxnet.serial(deep, wide, jaxnet.dense(7, 2), jaxnet.elementwise(jaxnet.tanh))


def trains(folder: Path) -> None:
    x, y = data()
    key = jax.random.key(0)
    model, loss = network(), jaxnet.softmax_cross_entropy
    optimizer = jaxnet.adam(learning_rate=0.01)
    trained, history = jaxnet.fit(
        model, loss, optimizer, x, y, key=key, batch_size=8, epochs=2,
        validation=(x, y), metrics={"accuracy": lambda prediction, y: jaxnet.is_correct(prediction, y)},
    )  # fmt: skip
    assert history.cost.shape == (4,)
    assert history.validation["accuracy"].shape == (2,)
    path = folder / "parameters.safetensors"
    jaxnet.save_parameters(path, model, trained.params)
    params = jaxnet.load_parameters(path, model)
    prediction = jaxnet.predict(model, loss)(params, jnp.asarray(x))
    assert jaxnet.is_correct(prediction, y).shape == (16,)

    used, found = jaxnet.population_statistics(model, trained.params, x)
    assert (used, jax.tree.structure(found)) == (model, jax.tree.structure(trained.params))

    sgd = jaxnet.optimizer_of(
        lambda params, learning_rate: (),
        lambda gradient, state, params, learning_rate: (jax.tree.map(lambda g: -learning_rate * g, gradient), state),
        learning_rate=0.1,
    )
    states, _ = jaxnet.sweep(
        model, loss, [sgd, sgd], x, y, keys=jax.random.split(key, 2), batch_size=8, epochs=1
    )  # fmt: skip
    assert jax.tree.leaves(states.params)[0].shape[0] == 2
    _, history = jaxnet.fit_batches(model, loss, jaxnet.gradient_descent(0.1), [(x[:8], y[:8])] * 3, key=key)
    assert history.cost.shape == (3,)
    line, wild = jaxnet.dense(4, 4), jaxnet.gradient_descent(1e300)
    with pytest.raises(jaxnet.TrainingError, match="not finite"):
        jaxnet.fit(line, jaxnet.squared_error, wild, x, x, key=key, batch_size=8, epochs=2)

    mesh = jaxnet.data_mesh()
    state = jaxnet.place_state(jaxnet.init_state(model, optimizer, key), mesh)
    xs, ys = jaxnet.place_batch(x, y, mesh)

    @jax.jit
    def steps(state: jaxnet.training.TrainState, x: jax.Array | np.ndarray, y: jax.Array | np.ndarray):
        value, gradient = jaxnet.cost_and_gradient(model, loss)(state.params, x, y)
        assert jax.tree.structure(gradient) == jax.tree.structure(state.params)
        change = value - jaxnet.cost(model, loss)(state.params, x, y)
        state, _ = jaxnet.parallel_step(model, loss, optimizer, state, x, y, mesh=mesh)
        state, _, diagnostics = jaxnet.observed_step(model, loss, optimizer, state, x, y)
        return change, diagnostics, jaxnet.gradient_noise_scale(model, loss)(state.params, x, y)

    change, diagnostics, scale = steps(state, xs, ys)
    assert abs(change) < 1e-12
    assert jaxnet.first_nonfinite(model, diagnostics) is None
    assert len(jaxnet.layer_names(model)) == len(diagnostics.gradient_norm)
    assert scale


def proves() -> None:
    key = jax.random.key(1)
    a = np.linspace(0.5, 2.0, 3)
    assert jaxnet.verify_gradient(lambda a: jnp.sum(a**2), lambda a: 2.0 * a, a, key=key).passed
    assert jaxnet.verify_vjp(lambda a: a**2, lambda args, g: (2.0 * args[0] * g,), a, key=key)
    report = jaxnet.verify_layer(jaxnet.dense(3, 2), jnp.ones((2, 3)), key=key)
    report.raise_if_failed()
    small = jaxnet.mlp([3, 1])
    assert jaxnet.verify_network(small, jaxnet.squared_error, jnp.ones((2, 3)), jnp.ones((2, 1)), key=key)
    y = jnp.ones((2, 1))
    assert jaxnet.cost(small, jaxnet.binary_cross_entropy)(small.init(key), jnp.ones((2, 3)), y).shape == ()
    dense = jaxnet.dense(3, 2)
    assert jaxnet.verify_custom_vjp(jaxnet.as_custom_vjp(dense), dense.init(key), jnp.ones((2, 3)), key=key)
    rule = jaxnet.from_step(lambda params: (), lambda params, gradient, state: (params - 0.1 * gradient, state))
    assert jaxnet.verify_optimizer(rule, jaxnet.gradient_descent(0.1), jnp.ones(3), key=key)


def test_a_user_s_program_with_every_public_name(tmp_path):
    trains(tmp_path)
    proves()


def test_optimizers_of_torch_are_taken():
    torch = pytest.importorskip("torch")
    sgd = jaxnet.from_torch(lambda tensors: torch.optim.SGD(tensors, lr=0.5))
    updates, _ = sgd.update(jnp.ones(2), sgd.init(jnp.ones(2)), jnp.ones(2))
    assert (jax.tree.leaves(updates)[0] == -0.5).all()


def test_no_public_name_is_left_out():
    tree = ast.parse(Path(__file__).read_text())
    used = {
        node.attr for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jaxnet"
    }  # fmt: skip
    assert used >= set(jaxnet._NAMES)
