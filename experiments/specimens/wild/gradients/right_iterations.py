# ruff: noqa: N803, N806 (matrices are capital letters)
"""Right rules of functions that iterate, by the implicit function theorem, by reversal, or by known derivatives.

Functions with a `while_loop` have no reverse mode in JAX, and functions that call NumPy have no derivative at all.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, uniform, weights
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
right = catalogue.right

AREA = "iteration"


def iterated(step, start):
    """step(step(...(start))) until nothing changes any more but the last digits; a loop without reverse mode."""
    tolerance = 8 * jnp.finfo(start.dtype).eps

    def unfinished(state):
        x, previous, count = state
        return (jnp.abs(x - previous).max() > tolerance * (1 + jnp.abs(x).max())) & (count < 200)

    first = (step(start), start, 1)
    return jax.lax.while_loop(unfinished, lambda state: (step(state[0]), state[0], state[2] + 1), first)[0]


# Equations in one unknown --------------------------------------------------------------------------------------------


def lambert_w(z):
    """The w with w e^w = z, for z > -1/e, by Halley's iteration; without reverse mode in JAX."""

    def halley(w):
        f = w - z * jnp.exp(-w)
        return w - f / (w + 1 - 0.5 * (w + 2) * f / (w + 1))

    return iterated(halley, jnp.log1p(z))


@right(
    of=Function(AREA, lambert_w, lambda g, scale: (uniform(g, -0.2, 5.0, 5, 3).at[:, 0].set(0),)),
    source="tensorflow/probability tensorflow_probability/python/math/special.py",
)
def lambert_w_from_its_output(ct, z):
    """1/((1 + w) e^w), which is also w/(z (1 + w)) where z is not 0."""
    w = lambert_w(z)
    return (ct / ((1 + w) * jnp.exp(w)),)


def true_anomaly(M, e):
    """Sine and cosine of the true anomaly of Kepler's equation E - e sin E = M; without reverse mode in JAX."""

    def newton(E):
        return E - (E - e * jnp.sin(E) - M) / (1 - e * jnp.cos(E))

    E = iterated(newton, M + e * jnp.sin(M))
    distance = 1 - e * jnp.cos(E)
    return jnp.sqrt(1 - e * e) * jnp.sin(E) / distance, (jnp.cos(E) - e) / distance


@right(
    of=Function(AREA, true_anomaly, lambda g, scale: (uniform(g, 0.1, 3.0, 5, 3), uniform(g, 0.05, 0.7, 3))),
    source="exoplanet-dev/jaxoplanet src/jaxoplanet/core/kepler.py",
)
def true_anomaly_by_sine_and_cosine(ct, M, e):
    """Both outputs turn with one angle, whose derivatives need no iteration; e is shared by the rows."""
    sine, cosine = true_anomaly(M, e)
    turn = ct[0] * cosine - ct[1] * sine
    rest = 1 - e * e
    d_e = turn * (2 + e * cosine) * sine / rest
    return turn * (1 + e * cosine) ** 2 / rest**1.5, d_e.sum(axis=0)


def cubic_root(p, q):
    """The real x with x³ + p x = q for positive p, by Newton's iteration; without reverse mode in JAX."""
    return iterated(lambda x: (2 * x**3 + q) / (3 * x * x + p), q / (1 + p))


@right(
    of=Function(AREA, cubic_root, lambda g, scale: (uniform(g, 0.5, 2.0, 4), normal(g, 5, 1, scale=scale))),
    source="patrick-kidger/optimistix optimistix/_adjoint.py",
)
def root_by_the_implicit_function_theorem(ct, p, q):
    """-(∂f/∂x)⁻¹ ∂f/∂p, whatever found the root; p and q are broadcast against each other."""
    x = cubic_root(p, q)
    u = ct / (3 * x * x + p)
    return -(u * x).sum(axis=0), u.sum(axis=1, keepdims=True)


# Fixed points --------------------------------------------------------------------------------------------------------


def equilibrium(W, x):
    """The z with z = tanh(z Wᵀ + x), row by row, by a fixed number of steps."""
    return jax.lax.scan(lambda z, _: (jnp.tanh(z @ W.T + x), None), jnp.zeros_like(x), length=80)[0]


def contraction(generator, scale):
    """Weights with a norm below 1/2, and inputs."""
    W = normal(generator, 3, 3)
    return W / (2.5 * jnp.linalg.norm(W, ord=2)), normal(generator, 5, 3, scale=scale)


@right(of=Function(AREA, equilibrium, contraction), source="HIPS/autograd autograd/misc/fixed_points.py")
def equilibrium_by_a_fixed_point_of_cotangents(ct, W, x):
    """The adjoint equation δ = (ct + δ W)(1 - z²) is itself iterated to its fixed point."""
    z = equilibrium(W, x)
    delta = iterated(lambda d: (ct + d @ W) * (1 - z * z), jnp.zeros_like(z))
    return delta.T @ z, delta


@right(of=Function(AREA, equilibrium, contraction), source="google/jaxopt jaxopt/_src/implicit_diff.py")
def equilibrium_by_linear_equations(ct, W, x):
    """The same as a system of linear equations for each row."""
    z = equilibrium(W, x)
    slope = 1 - z * z
    systems = jnp.eye(len(W), dtype=W.dtype) - W.T * slope[:, None, :]
    delta = slope * jnp.linalg.solve(systems, ct[..., None])[..., 0]
    return delta.T @ z, delta


def conjugate_gradients(A, b):
    """The solution of A x = b for a positive definite A, by conjugate gradients; without reverse mode in JAX."""

    def step(state):
        x, r, p, count = state
        Ap = A @ p
        length = r @ r / (p @ Ap)
        new = r - length * Ap
        return x + length * p, new, new + new @ new / (r @ r) * p, count + 1

    def unfinished(state):
        return (jnp.linalg.norm(state[1]) > 4 * jnp.finfo(b.dtype).eps * jnp.linalg.norm(b)) & (state[3] < 40)

    return jax.lax.while_loop(unfinished, step, (jnp.zeros_like(b), b, b, 0))[0]


def positive_definite(generator, n):
    """A symmetric matrix with eigenvalues from 1 up."""
    X = normal(generator, n, n)
    return X @ X.T / n + jnp.eye(n, dtype=X.dtype)


def normal_equations(A, b, ridge):
    """The solution of ((A + Aᵀ)/2 + ridge) x = b."""
    return conjugate_gradients((A + A.T) / 2 + ridge * jnp.eye(len(b), dtype=b.dtype), b)


@right(
    of=Function(
        AREA,
        normal_equations,
        lambda g, scale: (positive_definite(g, 5), normal(g, 5, scale=scale), uniform(g, 0.1, 1.0)),
    ),
    source="jax-ml/jax jax/_src/scipy/sparse/linalg.py",
)
def conjugate_gradients_by_conjugate_gradients(ct, A, b, ridge):
    """A symmetric matrix is its own transpose: the rule solves with the same method once more."""
    x, db = normal_equations(A, b, ridge), normal_equations(A, ct, ridge)
    dA = -jnp.outer(db, x)
    return (dA + dA.T) / 2, db, -db @ x


STEPS = 12


def logistic_fit(x, y, strength):
    """The weights of a logistic regression with a quadratic penalty, by a fixed number of Newton steps."""

    def newton(w, _):
        p = jax.nn.sigmoid(x @ w)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + strength * jnp.eye(x.shape[1], dtype=x.dtype)
        return w - jnp.linalg.solve(hessian, x.T @ (p - y) + strength * w), None

    return jax.lax.scan(newton, jnp.zeros_like(x[0]), length=STEPS)[0]


@right(
    of=Function(AREA, logistic_fit, lambda g, scale: (normal(g, 6, 3), uniform(g, 0.0, 1.0, 6), uniform(g, 0.5, 2.0))),
    source="google/jaxopt jaxopt/_src/implicit_diff.py",
)
def fitted_weights_by_the_optimality_conditions(ct, x, y, strength):
    """One equation with the Hessian; the data act through the residuals and through the products with them."""
    w = logistic_fit(x, y, strength)
    p = jax.nn.sigmoid(x @ w)
    slope = p * (1 - p)
    u = jnp.linalg.solve((x * slope[:, None]).T @ x + strength * jnp.eye(len(w), dtype=w.dtype), ct)
    return -jnp.outer(slope * (x @ u), w) - jnp.outer(p - y, u), x @ u, -u @ w


# Optimal transport ---------------------------------------------------------------------------------------------------


def potentials(cost):
    """Potentials of entropic transport between uniform marginals of 4 and 5 places, by a fixed number of updates."""
    rows, columns = cost.shape

    def update(g, _):
        f = -math.log(rows) - jax.nn.logsumexp(g - cost, axis=1)
        g = -math.log(columns) - jax.nn.logsumexp(f[:, None] - cost, axis=0)
        return g, f

    g, fs = jax.lax.scan(update, jnp.zeros_like(cost[0]), length=60)
    return fs[-1], g


def transport_cost(cost):
    """The value of entropic transport with a temperature of 1, at the potentials."""
    f, g = potentials(cost)
    return f.mean() + g.mean() - jnp.exp(f[:, None] + g - cost).sum() + 1


@right(
    of=Function(AREA, transport_cost, lambda g, scale: (uniform(g, 0.0, 2.0, 4, 5),)),
    source="ott-jax/ott src/ott/solvers/linear/implicit_differentiation.py",
)
def transport_cost_by_its_plan(ct, cost):
    """The envelope theorem: the plan, as the potentials are at a maximum."""
    f, g = potentials(cost)
    return (ct * jnp.exp(f[:, None] + g - cost),)


def centered_potential(cost):
    """The potential of the columns, less its mean."""
    g = potentials(cost)[1]
    return g - g.mean()


@right(
    of=Function(AREA, centered_potential, lambda g, scale: (uniform(g, 0.0, 2.0, 4, 5),)),
    source="ott-jax/ott src/ott/solvers/linear/implicit_differentiation.py",
)
def potentials_by_the_implicit_function_theorem(ct, cost):
    """The equations of both marginals, whose null space is a constant in f and -g."""
    f, g = potentials(cost)
    plan = jnp.exp(f[:, None] + g - cost)
    rows = len(f)
    system = jnp.block([[jnp.diag(plan.sum(axis=1)), plan], [plan.T, jnp.diag(plan.sum(axis=0))]])
    null = jnp.concatenate([jnp.ones_like(f), -jnp.ones_like(g)])
    right_side = jnp.concatenate([jnp.zeros_like(f), ct - ct.mean()])
    # A term along the null space makes the system regular, and does not change the solution across it.
    u = jnp.linalg.solve(system + jnp.outer(null, null), right_side)
    return (plan * (u[:rows, None] + u[rows:]),)


# Series and recurrences ----------------------------------------------------------------------------------------------


def lifted(x):
    """x raised above 10 in steps of 1, with Σ log and Σ 1/(x + k) of what was passed; without reverse mode in JAX."""

    def step(state):
        x, logs, reciprocals = state
        low = x < 10
        safe = jnp.where(low, x, 1)
        return (
            jnp.where(low, x + 1, x),
            logs + jnp.where(low, jnp.log(safe), 0),
            reciprocals + jnp.where(low, 1 / safe, 0),
        )

    return jax.lax.while_loop(lambda s: (s[0] < 10).any(), step, (x, jnp.zeros_like(x), jnp.zeros_like(x)))


def log_gamma(x):
    """log Γ(x) for positive x, by its recurrence and Stirling's series."""
    z, logs, _ = lifted(x)
    s = 1 / (z * z)
    series = (1 / 12 - s * (1 / 360 - s * (1 / 1260 - s * (1 / 1680 - s / 1188)))) / z
    return (z - 0.5) * jnp.log(z) - z + 0.5 * math.log(2 * math.pi) + series - logs


@right(
    of=Function(AREA, log_gamma, lambda g, scale: (uniform(g, 0.3, 14.0, 5, 3),)),
    source="jax-ml/jax jax/_src/lax/special.py",
)
def log_gamma_by_the_digamma_series(ct, x):
    """ψ(x) by its own recurrence and series."""
    z, _, reciprocals = lifted(x)
    s = 1 / (z * z)
    series = s * (1 / 12 - s * (1 / 120 - s * (1 / 252 - s * (1 / 240 - s / 132))))
    return (ct * (jnp.log(z) - 0.5 / z - series - reciprocals),)


def square_root_by_iteration(A):
    """The square root of a positive definite matrix by ten steps of the iteration of Denman and Beavers."""
    Y, Z = A, jnp.eye(len(A), dtype=A.dtype)
    for _ in range(10):
        Y, Z = (Y + jnp.linalg.inv(Z)) / 2, (Z + jnp.linalg.inv(Y)) / 2
    return Y


@right(
    of=Function(AREA, square_root_by_iteration, lambda g, scale: (positive_definite(g, 3),)),
    source="ott-jax/ott src/ott/math/matrix_square_root.py",
)
def iterated_square_root_by_a_sylvester_equation(ct, A):
    """R X + X R = ctᵀ, transposed, with the root R; A need not stay symmetric."""
    R, n = square_root_by_iteration(A), len(A)
    eye = jnp.eye(n, dtype=A.dtype)
    X = jnp.linalg.solve(jnp.kron(R, eye) + jnp.kron(eye, R.T), ct.T.reshape(-1)).reshape(n, n)
    return (X.T,)


# Reversal ------------------------------------------------------------------------------------------------------------


def coupled(x1, x2, F, G):
    """A reversible block: y1 = x1 + tanh(x2 Fᵀ), y2 = x2 + tanh(y1 Gᵀ)."""
    y1 = x1 + jnp.tanh(x2 @ F.T)
    return y1, x2 + jnp.tanh(y1 @ G.T)


@right(
    of=Function(
        AREA,
        coupled,
        lambda g, scale: (normal(g, 5, 3), normal(g, 5, 4), weights(g, scale, 3, 4), weights(g, scale, 4, 3)),
    ),
    source="google/trax trax/layers/reversible.py",
)
def reversible_block_from_its_outputs(ct, x1, x2, F, G):
    """The inputs are computed back from the outputs, and nothing else is saved."""
    y1, y2 = coupled(x1, x2, F, G)
    t2 = jnp.tanh(y1 @ G.T)
    x2 = y2 - t2
    delta2 = ct[1] * (1 - t2**2)
    d_y1 = ct[0] + delta2 @ G
    delta1 = d_y1 * (1 - jnp.tanh(x2 @ F.T) ** 2)
    return d_y1, ct[1] + delta1 @ F, delta1.T @ x2, delta2.T @ y1


SPAN = 0.1


def leapfrog(position, momentum, stiffness):
    """Eight leapfrog steps in the potential Σ k (1 - cos q)."""

    def step(state, _):
        q, p = state
        p = p - SPAN / 2 * stiffness * jnp.sin(q)
        q = q + SPAN * p
        return (q, p - SPAN / 2 * stiffness * jnp.sin(q)), None

    return jax.lax.scan(step, (position, momentum), length=8)[0]


@right(
    of=Function(
        AREA, leapfrog, lambda g, scale: (normal(g, 5, 3), normal(g, 5, 3, scale=scale), uniform(g, 0.5, 2.0, 3))
    ),
    source="google/trax trax/layers/reversible.py",
)
def leapfrog_by_running_backwards(ct, position, momentum, stiffness):
    """The trajectory is not saved but run back from its end, together with the cotangents."""

    def back(state, _):
        q, p, dq, dp, dk = state
        dk, dq = dk - SPAN / 2 * dp * jnp.sin(q), dq - SPAN / 2 * dp * stiffness * jnp.cos(q)
        p = p + SPAN / 2 * stiffness * jnp.sin(q)
        q, dp = q - SPAN * p, dp + SPAN * dq
        dk, dq = dk - SPAN / 2 * dp * jnp.sin(q), dq - SPAN / 2 * dp * stiffness * jnp.cos(q)
        return (q, p + SPAN / 2 * stiffness * jnp.sin(q), dq, dp, dk), None

    end = leapfrog(position, momentum, stiffness)
    _, _, dq, dp, dk = jax.lax.scan(back, (*end, *ct, jnp.zeros_like(ct[0])), length=8)[0]
    return dq, dp, dk.sum(axis=0)


# NumPy ---------------------------------------------------------------------------------------------------------------


def called(function, like, *args):
    """A NumPy function of arrays within a JAX program."""

    def host(*arrays):
        return np.asarray(function(*map(np.asarray, arrays)), like.dtype)

    return jax.pure_callback(host, jax.ShapeDtypeStruct(like.shape, like.dtype), *args, vmap_method="sequential")


def bessel_j(order, x):
    """The Bessel function of an integer order, by SciPy; without any derivative in JAX."""
    return called(scipy.special.jv, x, order, x)


@right(
    of=Function(
        AREA, bessel_j, lambda g, scale: (jnp.asarray([0, 1, 3], jnp.int32), normal(g, 5, 3, scale=max(scale, 1.0)))
    ),
    source="jax-ml/jax docs/external-callbacks.md",
)
def bessel_function_by_its_neighbours(ct, order, x):
    """(J_(n-1) - J_(n+1))/2, and -J₁ for the order 0; the order is an integer."""
    slope = jnp.where(order == 0, -bessel_j(order + 1, x), (bessel_j(order - 1, x) - bessel_j(order + 1, x)) / 2)
    return None, ct * slope


def gamma_quantile(shape, p):
    """The quantile of the gamma distribution, by SciPy; without any derivative in JAX."""
    return called(lambda a, q: scipy.special.gammaincinv(a, q), p, shape, p)


@right(
    of=Function(
        AREA,
        gamma_quantile,
        lambda g, scale: (jnp.asarray([0.8, 2.0, 3.5], jnp.float32), uniform(g, 0.1, 0.9, 5, 3)),
        {"argnums": 1},
    ),
    source="tensorflow/probability tensorflow_probability/python/math/special.py",
)
def quantile_by_the_density_at_its_output(ct, shape, p):
    """One over the density at the quantile; the derivative by the shape is not asked for."""
    x = gamma_quantile(shape, p)
    return None, ct * jnp.exp(x - (shape - 1) * jnp.log(x) + jax.lax.lgamma(shape))
