"""Functions with right rules for their derivatives, which tests then spoil."""

import jax.numpy as jnp
import numpy as np


def normal(*shape, dtype="float32", seed=0, scale=1.0):
    """Normal numbers; from NumPy, since XLA takes seconds to compile a generator. Never those of a verifier's key."""
    return jnp.asarray(scale * np.random.default_rng([seed, 7]).standard_normal(shape), dtype)


def dense(x, weight, bias):
    return x @ weight.T + bias


def dense_rule(args, ct):
    x, weight, _ = args
    return ct @ weight, ct.T @ x, ct.sum(axis=0)


def dense_args(m=5, n_in=4, n_out=3, dtype="float32"):
    return normal(m, n_in, dtype=dtype), normal(n_out, n_in, dtype=dtype, seed=1), normal(n_out, dtype=dtype, seed=2)


def squares(x):
    return (x**2).sum()


def squares_rule(x):
    return 2 * x


def first(report):
    """The first finding; the report must have failed."""
    assert not report.passed
    return report.findings[0]


def kind(report):
    """The kind of the first finding, None if there is none."""
    return report.findings[0].kind if report.findings else None
