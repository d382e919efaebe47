"""Layers as a user would write them, from the contract alone: every part of the library takes them, or says why not."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.layers import Composite
from tests.compare import WIDEST, assert_close, random_like


@dataclasses.dataclass(frozen=True)
class Norm(jn.Layer):
    """Layer norm without a scale: h = (a - μ)/s."""

    eps: float = 1e-5

    def init(self, key):
        return ()

    def forward(self, params, inputs):
        centred = inputs - inputs.mean(-1, keepdims=True)
        inverse = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + self.eps)
        return centred * inverse, (centred * inverse, inverse)

    def backward(self, params, cache, grad_outputs):
        h, inverse = cache
        of_mean = grad_outputs.mean(-1, keepdims=True)
        of_scale = h * (grad_outputs * h).mean(-1, keepdims=True)
        return inverse * (grad_outputs - of_mean - of_scale), ()


@dataclasses.dataclass(frozen=True)
class Rows(jn.Layer):
    """An embedding: rows of a table at integers."""

    n_rows: int
    n: int

    def init(self, key):
        return {"table": jax.random.normal(key, (self.n_rows, self.n), WIDEST)}

    def forward(self, params, inputs):
        return params["table"][inputs], inputs

    def backward(self, params, cache, grad_outputs):
        return None, {"table": jnp.zeros_like(params["table"]).at[cache].add(grad_outputs)}


@dataclasses.dataclass(frozen=True)
class Scores(Rows):
    """How well each row of the table fits: z = table a."""

    def forward(self, params, inputs):
        return inputs @ params["table"].T, inputs

    def backward(self, params, cache, grad_outputs):
        rows = [leaf.reshape(-1, leaf.shape[-1]) for leaf in (grad_outputs, cache)]
        return grad_outputs @ params["table"], {"table": rows[0].T @ rows[1]}


@dataclasses.dataclass(frozen=True)
class Differences(jn.Layer):
    """A convolution with a window of two: z_t = w₀ a_t + w₁ a_(t+1)."""

    def init(self, key):
        return jax.random.normal(key, (2,), WIDEST)

    def forward(self, params, inputs):
        return params[0] * inputs[..., :-1] + params[1] * inputs[..., 1:], inputs

    def backward(self, params, cache, grad_outputs):
        zeros = jnp.zeros_like(cache)
        grad_inputs = zeros.at[..., :-1].add(params[0] * grad_outputs).at[..., 1:].add(params[1] * grad_outputs)
        return grad_inputs, jnp.stack([(grad_outputs * cache[..., :-1]).sum(), (grad_outputs * cache[..., 1:]).sum()])


@dataclasses.dataclass(frozen=True)
class Dropout(jn.Layer):
    """Each number is 0 with this probability, and else divided by the rest."""

    rate: float
    needs_key = True

    def init(self, key):
        return ()

    def forward(self, params, inputs, *, key: Any = None):
        kept = jax.random.bernoulli(key, 1 - self.rate, inputs.shape).astype(inputs.dtype) / (1 - self.rate)
        return kept.astype(inputs.dtype) * inputs, kept.astype(inputs.dtype)

    def backward(self, params, cache, grad_outputs):
        return cache * grad_outputs, ()

    def at_inference(self):
        return jn.elementwise(jn.activations.identity)


@dataclasses.dataclass(frozen=True)
class Gated(jn.Layer):
    """Two inputs: a ⊙ b."""

    def init(self, key):
        return ()

    def forward(self, params, inputs):
        a, b = inputs
        return a * b, (a, b)

    def backward(self, params, cache, grad_outputs):
        a, b = cache
        return (grad_outputs * b, grad_outputs * a), ()


@dataclasses.dataclass(frozen=True)
class Both(Composite):
    """A layer for each of two inputs."""

    layers: tuple[jn.Layer, ...]

    @property
    def parts(self):
        return self.layers

    def with_parts(self, parts):
        return Both(parts)

    def init(self, key):
        return tuple(layer.init(k) for layer, k in zip(self.layers, jax.random.split(key, 2), strict=True))

    def forward(self, params, inputs, *, key=None):
        passes = [layer.forward(*each) for layer, *each in zip(self.layers, params, inputs, strict=True)]
        return tuple(a for a, _ in passes), tuple(cache for _, cache in passes)

    def backward(self, params, cache, grad_outputs):
        found = [layer.backward(*each) for layer, *each in zip(self.layers, params, cache, grad_outputs, strict=True)]
        return tuple(a for a, _ in found), tuple(gradient for _, gradient in found)


@dataclasses.dataclass(frozen=True)
class BatchNorm(jn.Layer):
    """h = (a - μ)/s over the batch: the examples are coupled."""

    couples_examples = True
    eps: float = 1e-5

    def init(self, key):
        return ()

    def forward(self, params, inputs):
        centred = inputs - inputs.mean(0, keepdims=True)
        inverse = jax.lax.rsqrt((centred**2).mean(0, keepdims=True) + self.eps)
        return centred * inverse, (centred * inverse, inverse)

    def backward(self, params, cache, grad_outputs):
        h, inverse = cache
        of_scale = h * (grad_outputs * h).mean(0, keepdims=True)
        return inverse * (grad_outputs - grad_outputs.mean(0, keepdims=True) - of_scale), ()


class Standardized(jn.Layer):
    """h = (a - μ)/s with fixed statistics."""

    def init(self, key):
        raise NotImplementedError

    def forward(self, params, inputs):
        mean, inverse = params
        return (inputs - mean) * inverse, inverse

    def backward(self, params, cache, grad_outputs):
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class PopulationNorm(BatchNorm):
    """Batch norm that uses the statistics of the training set afterwards."""

    def at_population(self):
        return Standardized(), self.statistics

    def statistics(self, params, inputs):
        return inputs.mean(0, keepdims=True), jax.lax.rsqrt(inputs.var(0, keepdims=True) + self.eps)


@dataclasses.dataclass(frozen=True)
class Autoencoder(jn.Layer):
    """Tied weights: z = tanh(a Wᵀ) W; the gradients of both uses add up."""

    n: int
    n_hidden: int

    def init(self, key):
        return jax.random.normal(key, (self.n_hidden, self.n), WIDEST) / self.n

    def forward(self, params, inputs):
        h = jnp.tanh(inputs @ params.T)
        return h @ params, (inputs, h)

    def backward(self, params, cache, grad_outputs):
        a, h = cache
        delta = (grad_outputs @ params.T) * (1 - h**2)
        rows = [leaf.reshape(-1, leaf.shape[-1]) for leaf in (a, h, delta, grad_outputs)]
        return delta @ params, rows[2].T @ rows[0] + rows[1].T @ rows[3]


M, N = 12, 6
dense = functools.partial(jn.dense, dtype=WIDEST)
dense_transpose = functools.partial(jn.layers.dense_transpose, dtype=WIDEST)
tied = jn.layers.tied
TANH = jn.elementwise(jn.tanh)
X = random_like(jax.ShapeDtypeStruct((M, N), WIDEST), seed=3)
TOKENS = jnp.arange(M) * 7 % 5
NETWORKS = {
    "norm": (jn.serial(dense(N, 4), Norm(), TANH, dense(4, 3)), X),
    "convolution": (jn.serial(Differences(), TANH, dense(N - 1, 3)), X),
    "residual block": (jn.serial(jn.residual(Norm(), dense(N, N), TANH, dense(N, N)), dense(N, 3)), X),
    "repeated blocks": (jn.serial(jn.repeat(jn.residual(Norm(), dense(N, N), TANH), 3), dense(N, 3)), X),
    "two ways": (jn.serial(jn.concatenate(dense(N, 4), Norm()), TANH, dense(4 + N, 3)), X),
    "embedding": (jn.serial(Rows(5, 4), TANH, dense(4, 3)), TOKENS),
    "tied weights": (jn.serial(Autoencoder(N, 4), dense(N, 3)), X),
    "tied embedding": (tied(jn.serial(Norm(), dense(4, 4), TANH), Rows(5, 4), Scores(5, 4)), TOKENS),
    "repeated tied": (
        jn.serial(jn.repeat(tied(TANH, dense(N, 4), dense_transpose(N, 4)), 2), dense(N, 3)),
        X,
    ),
    "two inputs": (jn.serial(Both((dense(N, 4), Rows(5, 4))), Gated(), dense(4, 3)), (X, TOKENS)),
}
LABELS = jnp.arange(M) % 3
LOSS = jn.softmax_cross_entropy


@pytest.fixture(params=NETWORKS)
def case(request):
    network, x = NETWORKS[request.param]
    return network, network.init(jax.random.key(1)), x


def test_gradient_is_that_of_autodiff(case):
    network, params, x = case
    by_hand = jax.jit(jn.cost_and_gradient(network, LOSS))(params, x, LABELS)
    automatic = jax.jit(jax.value_and_grad(jn.cost(network, LOSS)))(params, x, LABELS)
    assert_close(by_hand, automatic, 1e-13)


@pytest.mark.one_in(9)
def test_fit_with_the_update_inside_the_backward_pass_and_observed_is_the_same(case):
    network, _, x = case
    options: Any = {"key": jax.random.key(0), "batch_size": 5, "epochs": 3}
    state, history = jn.fit(network, LOSS, jn.adam(0.01), x, LABELS, **options)
    observed, watched = jn.fit(network, LOSS, jn.adam(0.01), x, LABELS, **options, observe_every=2)
    assert_close((state.params, history.cost), (observed.params, watched.cost), 1e-12)
    assert watched.diagnostics is not None
    assert watched.diagnostics.mean.shape[1] == len(jn.layer_names(network))
    start = jn.init_state(network, jn.adam(0.01), jax.random.key(0))
    plain, inside = (
        jax.jit(step, static_argnums=(0, 1))(network, LOSS, jn.adam(0.01), start, x, LABELS)
        for step in (jn.training.train_step, jn.readings.updating_step)
    )
    assert_close((plain[0].params, plain[1]), (inside[0].params, inside[1]), 1e-13)


@pytest.mark.one_in(2)
def test_norms_are_those_of_the_gradients_of_examples(case):
    network, params, x = case
    gradients = jax.jit(jn.readings.per_example_gradients(network, LOSS))(params, x, LABELS)
    squares = sum(jnp.square(leaf).reshape(M, -1).sum(1) for leaf in jax.tree.leaves(gradients))
    norms = jax.jit(jn.readings.per_example_gradient_norms(network, LOSS))(params, x, LABELS)
    assert_close(norms, jnp.sqrt(squares), 1e-13)
    mean = jax.tree.map(lambda leaf: leaf.mean(0), gradients)
    assert_close(jax.jit(jn.cost_and_gradient(network, LOSS))(params, x, LABELS)[1], mean, 1e-13)


def test_layer_that_couples_examples_trains_and_is_refused_where_one_example_is_asked_for(key):
    network = jn.serial(dense(N, 4), TANH, BatchNorm(), dense(4, 3))
    params = network.init(key)
    by_hand = jax.jit(jn.cost_and_gradient(network, LOSS))(params, X, LABELS)
    assert_close(by_hand, jax.value_and_grad(jn.cost(network, LOSS))(params, X, LABELS), 1e-12)
    jn.verify_layer(BatchNorm(), X, key=key).raise_if_failed()
    run: Any = {"key": key, "batch_size": 4, "epochs": 3, "validation": (X, LABELS)}
    _, history = jn.fit(network, LOSS, jn.adam(0.05), X, LABELS, **run, observe_every=2)
    assert history.cost[-1] < history.cost[0]
    refused = pytest.raises(ValueError, match=r"BatchNorm\(.*\).* couples? the examples")
    for of_examples in (jn.readings.per_example_gradients, jn.readings.per_example_gradient_norms):
        with refused:
            of_examples(network, LOSS)(params, X, LABELS)
    with refused:
        jn.training.all_reduced_cost_and_gradient(network, LOSS, jn.data_mesh())


def test_population_statistics_are_those_of_the_training_set(key):
    norm = PopulationNorm()
    inside = jn.residual(dense(4, 4), norm, TANH)
    network = jn.serial(dense(N, 4), norm, Dropout(0.5), jn.repeat(inside, 2), jn.concatenate(norm, TANH), dense(8, 3))
    params = network.init(key)
    used, found = jn.population_statistics(network, params, X)
    alone = jnp.concatenate([jn.predict(used, LOSS)(found, x[None]) for x in X])
    assert_close(alone, jn.predict(network, LOSS)(params, X), 1e-12)  # the batch is the training set
    assert not used.couples_examples
    first, _ = network.parts[0].forward(params[0], X)
    statistics = first.mean(0)[None], 1 / jnp.sqrt(first.var(0)[None] + norm.eps)
    assert_close(found[1], statistics, 1e-12)
    again, same = jn.population_statistics(used, found, X[:2])  # nothing is left that asks for more
    assert again == used
    assert_close(same, found, 0)


def test_layer_that_does_not_say_what_it_is_without_its_batch_is_refused(key):
    network = jn.serial(dense(N, 4), BatchNorm())
    with pytest.raises(ValueError, match=r"BatchNorm\(.*\) couples the examples .* at_population"):
        jn.population_statistics(network, network.init(key), X)
    with pytest.raises(ValueError, match="of shape"):
        jn.population_statistics(dense(N, 4), dense(N, 4).init(key), X[0])


@pytest.mark.one_in(4)
def test_run_is_resumed_and_parameters_are_saved(tmp_path, case):
    network, _, x = case
    run: Any = {"key": jax.random.key(0), "batch_size": 5}
    jn.fit(network, LOSS, jn.adam(0.01), x, LABELS, **run, epochs=1, checkpoint=tmp_path)
    resumed, _ = jn.fit(network, LOSS, jn.adam(0.01), x, LABELS, **run, epochs=2, checkpoint=tmp_path)
    whole, _ = jn.fit(network, LOSS, jn.adam(0.01), x, LABELS, **run, epochs=2)
    assert_close(resumed.params, whole.params, 0)
    jn.save_parameters(tmp_path / "it", network, whole.params)
    assert_close(jn.load_parameters(tmp_path / "it", network), whole.params, 0)


def test_layer_of_integers_keeps_them_in_a_narrow_dtype():
    network = jn.serial(Rows(300, 4), dense(4, 3))
    params = network.init(jax.random.key(0))
    narrow = jn.readings.in_precision(network, jnp.bfloat16)
    outputs, _ = narrow.forward(params, jnp.asarray([257, 256]))
    expected, _ = network.forward(params, jnp.asarray([257, 256]))
    assert outputs.dtype == expected.dtype
    assert_close(outputs, expected, 2e-2)


@pytest.mark.one_in(9)
def test_sweep_and_batches_train_it_as_fit_does(case):
    network, _, x = case
    keys = jax.random.split(jax.random.key(0), 2)
    rates = jnp.asarray([0.01, 0.1], WIDEST)
    together, history = jn.sweep(
        network, LOSS, jax.vmap(jn.gradient_descent)(rates), x, LABELS, keys=keys, batch_size=None, epochs=2
    )
    alone, cost = jn.fit(
        network, LOSS, jn.gradient_descent(rates[1]), x, LABELS, key=keys[0], batch_size=None, epochs=2
    )
    assert_close(jax.tree.map(lambda leaf: leaf[1, 0], together.params), alone.params, 1e-12)
    assert_close(history.cost[1, 0], cost.cost, 1e-12)
    batches = [(x, LABELS)] * 2
    streamed, _ = jn.fit_batches(network, LOSS, jn.gradient_descent(rates[1]), batches, key=keys[0])
    assert_close(streamed.params, alone.params, 1e-12)


DROPPING = jn.serial(dense(N, 8), Dropout(0.5), TANH, dense(8, 3))


def test_layer_that_draws_gets_another_key_each_step_and_none_afterwards():
    options: Any = {"key": jax.random.key(0), "batch_size": None, "epochs": 40}
    state, history = jn.fit(DROPPING, LOSS, jn.gradient_descent(0.0), X, LABELS, **options)
    assert len(np.unique(np.asarray(history.cost))) == 40  # the parameters stay, the masks do not
    plain = jn.serial(dense(N, 8), TANH, dense(8, 3))
    without = (state.params[0], (), state.params[2], state.params[3])
    expected = jn.predict(plain, LOSS)((without[0], without[2], without[3]), X)
    assert_close(jn.predict(DROPPING, LOSS)(state.params, X), expected, 1e-15)
    again, _ = jn.fit(DROPPING, LOSS, jn.adam(0.01), X, LABELS, **options)
    observed, _ = jn.fit(DROPPING, LOSS, jn.adam(0.01), X, LABELS, **options, observe_every=7)
    assert_close(again.params, observed.params, 1e-12)
    with pytest.raises(ValueError, match=r"Dropout\(0\.5\).* draws random numbers: give forward a key"):
        jn.cost_and_gradient(DROPPING, LOSS)(state.params, X, LABELS)


def test_network_in_a_narrow_dtype_draws_nothing_at_inference_and_forgets_its_initializers():
    narrow = jn.readings.in_precision(DROPPING, jnp.bfloat16)
    params = DROPPING.init(jax.random.key(0))
    assert jn.predict(narrow, LOSS)(params, X).shape == (M, 3)
    other = jn.readings.in_precision(dense(N, 3, jn.initializers.he_normal), jnp.bfloat16)
    assert jn.readings.in_precision(dense(N, 3), jnp.bfloat16).without_init() == other.without_init()


def test_norms_by_the_gradients_of_examples_keep_their_dtype():
    x = X.astype("float32")
    params = jnp.asarray([0.5, -1.0], "float32")
    outputs, cache = Differences().forward(params, x)
    norms = Differences().squared_norms(params, cache, outputs)
    assert norms.dtype == "float32"
    alone = [Differences().backward(params, cache[i], outputs[i])[1] for i in range(M)]
    assert_close(norms, jnp.stack([jnp.square(gradient).sum() for gradient in alone]), 1e-6)


def test_verifier_judges_layers_that_draw_and_layers_of_integers(key):
    x = X.astype("float32")
    jn.verify_layer(Dropout(0.5), x, key=key).raise_if_failed()
    jn.verify_layer(Rows(5, 4), TOKENS, key=key).raise_if_failed()
    jn.verify_layer(Gated(), (x, x), key=key).raise_if_failed()


@dataclasses.dataclass(frozen=True)
class NoBackward(jn.Layer):
    def init(self, key):
        return ()

    def forward(self, params, inputs):
        return inputs, ()


def test_layer_without_a_pass_cannot_be_made():
    with pytest.raises(TypeError, match=r"abstract method '?backward"):
        NoBackward()  # pyright: ignore[reportAbstractUsage]


@pytest.mark.one_in(9)
def test_verifier_judges_networks_of_them(case, key):
    network, _, x = case
    jn.verify_network(network, LOSS, x, LABELS, key=key).raise_if_failed()


def test_shared_parameters_are_judged_once_and_the_half_of_their_gradient_that_is_wrong_is_found(key):
    @dataclasses.dataclass(frozen=True)
    class Halved(Scores):
        def backward(self, params, cache, grad_outputs):
            grad_inputs, gradient = super().backward(params, cache, grad_outputs)
            return grad_inputs, {"table": gradient["table"] / 2}

    wrong = tied(jn.serial(Norm(), dense(4, 4)), Rows(5, 4), Halved(5, 4))
    report = jn.verify_network(wrong, LOSS, TOKENS, LABELS, key=key)
    assert not report
    assert report.findings[0].part == "Rows(5, 4) and Halved(5, 4)"
    assert "one path counts 0.5 times" in report.findings[0].explanation
