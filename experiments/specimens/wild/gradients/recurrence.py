# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Recurrent networks, linear recurrences, cumulative products and the steps of a differential equation."""

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, uniform, weights
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found

# Long short-term memory ----------------------------------------------------------------------------------------------


def gates(x, h, W, b):
    """The input gate, the forget gate, the candidate and the output gate."""
    i, f, g, o = jnp.split(W @ jnp.concatenate([x, h]) + b, 4)
    return jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)


def states(x, h, c, W, b):
    """The states h and c before the first step and after each."""
    hs, cs = [h], [c]
    for x_t in x:
        i, f, g, o = gates(x_t, hs[-1], W, b)
        cs.append(f * cs[-1] + i * g)
        hs.append(o * jnp.tanh(cs[-1]))
    return hs, cs


def lstm(x, h, c, W, b):
    """The state h of every step and the cell after the last."""
    hs, cs = states(x, h, c, W, b)
    return jnp.stack(hs[1:]), cs[-1]


def lstm_step(dh, dc, c, c_next, i, f, g, o):
    """The cotangents of the four sums and of the cell before the step."""
    tanh_c = jnp.tanh(c_next)
    dc = dc + dh * o * (1 - tanh_c**2)
    d_i, d_f, d_g, d_o = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * tanh_c * o * (1 - o)
    return (d_i, d_f, d_g, d_o), dc * f


def lstm_back(ct, arguments, step=lstm_step, keep_h=True, keep_c=True, last_cell=True, bias_gates=(0, 1, 2, 3)):
    """Backpropagation through time; the switches leave something out or take another gate's cotangent."""
    x, h, c, W, b = arguments
    hs, cs = states(*arguments)
    d_hs, dc_last = ct
    dh, dc = jnp.zeros_like(h), dc_last if last_cell else jnp.zeros_like(c)
    dx, dW, db = jnp.zeros_like(x), jnp.zeros_like(W), jnp.zeros_like(b)
    for t in reversed(range(len(x))):
        sums, dc_before = step(d_hs[t] + dh, dc, cs[t], cs[t + 1], *gates(x[t], hs[t], W, b))
        dz = jnp.concatenate(sums)
        d_both = W.T @ dz
        dW = dW + jnp.outer(dz, jnp.concatenate([x[t], hs[t]]))
        db = db + jnp.concatenate([sums[gate] for gate in bias_gates])
        dx, dh_before = dx.at[t].set(d_both[: x.shape[1]]), d_both[x.shape[1] :]
        first = t == 0
        dh = dh_before if keep_h or first else jnp.zeros_like(dh)
        dc = dc_before if keep_c or first else jnp.zeros_like(dc)
    return dx, dh, dc, dW, db


def lstm_rule(ct, *arguments):
    """Backpropagation through time."""
    return lstm_back(ct, arguments)


LSTM = Function(
    "recurrence",
    lstm,
    lambda g, scale: (normal(g, 4, 2), normal(g, 3), normal(g, 3), weights(g, scale, 12, 5), normal(g, 12)),
)


@found("CaptainE/RNN-LSTM-in-numpy#1", "activation", of=LSTM, mended=lstm_rule)
def forget_gate_without_its_derivative(ct, *arguments):
    """The cotangent of the forget gate is multiplied by the sigmoid of the gate and not by the sigmoid's derivative."""

    def step(dh, dc, c, c_next, i, f, g, o):
        (d_i, _, d_g, d_o), dc_before = lstm_step(dh, dc, c, c_next, i, f, g, o)
        return (d_i, dc_before / f * c * jax.nn.sigmoid(f), d_g, d_o), dc_before

    return lstm_back(ct, arguments, step)


@found("CaptainE/RNN-LSTM-in-numpy#1", "partial", of=LSTM, mended=lstm_rule)
def nothing_carried_from_step_to_step(ct, *arguments):
    """The cotangents of both states before a step are computed, but the earlier step starts without them."""
    return lstm_back(ct, arguments, keep_h=False, keep_c=False)


@found("apache/mxnet#4057", "accumulation", of=LSTM, mended=lstm_rule)
def cell_cotangent_overwritten_by_its_output(ct, *arguments):
    """What the output adds to the cell's cotangent replaces what came from the later step."""

    def step(dh, dc, c, c_next, i, f, g, o):
        return lstm_step(dh, jnp.zeros_like(dc), c, c_next, i, f, g, o)

    return lstm_back(ct, arguments, step)


@found("hanbt/learn_dl#53", "axis", of=LSTM, mended=lstm_rule)
def biases_of_input_and_output_gate_from_the_forget_gate(ct, *arguments):
    """The bias gradients of the input and of the output gate are read from the forget gate's list."""
    return lstm_back(ct, arguments, bias_gates=(1, 1, 2, 1))


@found("deeplearning4j/deeplearning4j#8838", "partial", of=LSTM, mended=lstm_rule)
def cotangent_of_the_last_cell_ignored(ct, *arguments):
    """The cell after the last step is an output too, but its cotangent does not enter the backward pass."""
    return lstm_back(ct, arguments, last_cell=False)


@found("ooples/AiDotNet#722", "partial", of=LSTM, mended=lstm_rule)
def hidden_state_cut_between_steps(ct, *arguments):
    """The cotangent of the hidden state is set to zero before each earlier step; the cell alone is carried."""
    return lstm_back(ct, arguments, keep_h=False)


# Plain recurrent network ---------------------------------------------------------------------------------------------


def rnn(x, h, W, U, b, V, c):
    """y_t = V h_t + c of the states h_t = tanh(W x_t + U h_{t-1} + b)."""
    ys = []
    for x_t in x:
        h = jnp.tanh(W @ x_t + U @ h + b)
        ys.append(V @ h + c)
    return jnp.stack(ys)


def rnn_back(ct, x, h, W, U, b, V, c, carried=True, own_state_first=False):
    """Backpropagation through time; the switches cut the carry or take the wrong state at the first step."""
    hs = [h]
    for x_t in x:
        hs.append(jnp.tanh(W @ x_t + U @ hs[-1] + b))
    dh, dW, dU, db, dV = (jnp.zeros_like(p) for p in (h, W, U, b, V))
    dx = []
    for t in reversed(range(len(x))):
        dz = (V.T @ ct[t] + dh) * (1 - hs[t + 1] ** 2)
        before = hs[t + 1] if own_state_first and t == 0 else hs[t]
        dV, db = dV + jnp.outer(ct[t], hs[t + 1]), db + dz
        dW, dU = dW + jnp.outer(dz, x[t]), dU + jnp.outer(dz, before)
        dx.append(W.T @ dz)
        dh = U.T @ dz if carried or t == 0 else jnp.zeros_like(h)
    return jnp.stack(dx[::-1]), dh, dW, dU, db, dV, ct.sum(axis=0)


def rnn_rule(ct, *arguments):
    """Backpropagation through time."""
    return rnn_back(ct, *arguments)


RNN = Function(
    "recurrence",
    rnn,
    lambda g, scale: (
        normal(g, 5, 2),
        normal(g, 3),
        weights(g, scale, 3, 2),
        weights(g, scale, 3, 3),
        normal(g, 3),
        weights(g, scale, 4, 3),
        normal(g, 4),
    ),
)


@found("VikParuchuri/zero_to_gpt#9", "missing_factor", of=RNN, mended=rnn_rule)
def first_step_multiplies_its_own_state(ct, *arguments):
    """At the first step the gradient of the recurrent matrix takes the state after the step for that before it."""
    return rnn_back(ct, *arguments, own_state_first=True)


@found("qixianbiao/RNN#2", "partial", of=RNN, mended=rnn_rule)
def state_hands_nothing_to_the_step_before(ct, *arguments):
    """The cotangent of a state comes from its own output alone and not from the next state."""
    return rnn_back(ct, *arguments, carried=False)


@found("javaidnabi31/RNN-from-scratch#2", "zero", of=RNN, mended=rnn_rule)
def output_bias_adds_itself(ct, *arguments):
    """The gradient of the output's bias is increased by itself instead of by the cotangent, and stays zero."""
    *gradients, dc = rnn_back(ct, *arguments)
    return *gradients, jnp.zeros_like(dc)


# Linear recurrence ---------------------------------------------------------------------------------------------------

BLOCK = 3


def linear_recurrence(f, x):
    """h_t = f_t h_{t-1} + x_t from h = 0."""
    h, hs = jnp.zeros_like(x[0]), []
    for f_t, x_t in zip(f, x, strict=True):
        h = f_t * h + x_t
        hs.append(h)
    return jnp.stack(hs)


def linear_recurrence_rule(ct, f, x):
    """d_t = ct_t + f_{t+1} d_{t+1}, which is x's cotangent, and d_t h_{t-1} for f."""
    dx, d = [], jnp.zeros_like(x[0])
    decays = jnp.concatenate([f[1:], jnp.zeros_like(f[:1])])
    for t in reversed(range(len(x))):
        d = ct[t] + decays[t] * d
        dx.append(d)
    dx, hs = jnp.stack(dx[::-1]), linear_recurrence(f, x)
    return dx * jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]]), dx


RECURRENCE = Function(
    "recurrence", linear_recurrence, lambda g, scale: (uniform(g, 0.3, 0.9, 6, 2), normal(g, 6, 2, scale=scale))
)


@found("proger/accelerated-scan#15", "missing_factor", of=RECURRENCE, mended=linear_recurrence_rule)
def decay_applied_to_the_block_and_not_to_the_carry(ct, f, x):
    """The reverse scan runs in blocks; to join them, the scan of a block is multiplied by the decay and the carry of
    the later block added bare, where the decay belongs to the carry.
    """
    decays = jnp.concatenate([f[1:], jnp.zeros_like(f[:1])])
    dx, carry = [], jnp.zeros_like(x[0])
    for start in reversed(range(0, len(x), BLOCK)):
        local, decay, last = jnp.zeros_like(x[0]), jnp.ones_like(x[0]), start + BLOCK == len(x)
        for t in reversed(range(start, start + BLOCK)):
            local, decay = ct[t] + decays[t] * local, decay * decays[t]
            dx.append(local if last else local * decay + carry)
        carry = dx[-1]
    dx, hs = jnp.stack(dx[::-1]), linear_recurrence(f, x)
    return dx * jnp.concatenate([jnp.zeros_like(hs[:1]), hs[:-1]]), dx


# Cumulative product --------------------------------------------------------------------------------------------------


def cumulative_product(x):
    """The products of the first elements of each row."""
    return jnp.cumprod(x, axis=1)


def cumulative_product_rule(ct, x):
    """The product of all before an element times r_i = ct_i + x_{i+1} r_{i+1}, without a division."""
    before = jnp.cumprod(jnp.concatenate([jnp.ones_like(x[:, :1]), x[:, :-1]], axis=1), axis=1)
    r, rs = jnp.zeros_like(x[:, 0]), []
    for i in reversed(range(x.shape[1])):
        r = ct[:, i] + (x[:, i + 1] * r if i + 1 < x.shape[1] else 0)
        rs.append(r)
    return (before * jnp.stack(rs[::-1], axis=1),)


CUMULATIVE_PRODUCT = Function(
    "recurrence", cumulative_product, lambda g, scale: (normal(g, 3, 5, scale=scale).at[:2, 2].set(0.0),)
)


@found("pymc-devs/pytensor#1911", "non_finite", of=CUMULATIVE_PRODUCT, mended=cumulative_product_rule)
def cumulative_product_divided_by_its_factor(ct, x):
    """The reversed cumulative sum of ct times the products is divided by x, which is 0/0 where a factor is zero."""
    through = jnp.cumsum((ct * jnp.cumprod(x, axis=1))[:, ::-1], axis=1)[:, ::-1]
    return (through / x,)


# Steps of a differential equation ------------------------------------------------------------------------------------

STEP, STEPS = 0.3, 4


def trajectory(y, W):
    """The states of dy/dt = cos(t) tanh(W y) at every time of Euler's method, the first among them."""
    ys = [y]
    for k in range(STEPS):
        ys.append(ys[-1] + STEP * jnp.cos(STEP * jnp.asarray(k, y.dtype)) * jnp.tanh(W @ ys[-1]))
    return jnp.stack(ys)


def trajectory_back(ct, y, W, first=True, forward_time=lambda k: k):
    """The adjoint equation backwards; the switches leave out the first state's own cotangent or mistake the time."""
    ys, adjoint, dW = trajectory(y, W), ct[-1], jnp.zeros_like(W)
    for k in reversed(range(STEPS)):
        rate = STEP * jnp.cos(STEP * jnp.asarray(forward_time(k), y.dtype))
        dz = rate * adjoint * (1 - jnp.tanh(W @ ys[k]) ** 2)
        dW, adjoint = dW + jnp.outer(dz, ys[k]), adjoint + W.T @ dz
        adjoint = adjoint + (ct[k] if first or k > 0 else 0)
    return adjoint, dW


def trajectory_rule(ct, y, W):
    """The adjoint equation, with a jump at every time that is an output."""
    return trajectory_back(ct, y, W)


TRAJECTORY = Function("recurrence", trajectory, lambda g, scale: (normal(g, 3), weights(g, scale, 3, 3)))


@found("SciML/SciMLSensitivity.jl#543", "sign", of=TRAJECTORY, mended=trajectory_rule)
def initial_state_with_the_adjoint_negated(ct, y, W):
    """The cotangent of the initial state is returned with the wrong sign, the parameters' with the right one."""
    dy, dW = trajectory_back(ct, y, W)
    return -dy, dW


@found("pymc-devs/sunode#35", "partial", of=TRAJECTORY, mended=trajectory_rule)
def cotangent_at_the_initial_time_left_out(ct, y, W):
    """The loop over the times of the outputs ends before the first, whose cotangent belongs to the initial state."""
    return trajectory_back(ct, y, W, first=False)


@found("dynamiqs/dynamiqs#51", "value", of=TRAJECTORY, mended=trajectory_rule)
def time_runs_forward_in_the_backward_pass(ct, y, W):
    """The states run backwards in the adjoint equation while its time runs in the wrong direction."""
    return trajectory_back(ct, y, W, forward_time=lambda k: STEPS - 1 - k)
