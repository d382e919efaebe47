# ruff: noqa: N803, N806 (matrices are capital letters)
"""Right rules of linear algebra: factors, spectra, equations, transforms and rotations."""

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
right = catalogue.right

AREA = "linear algebra"
AUTOGRAD = "HIPS/autograd autograd/scipy/linalg.py"
AUTOGRAD_NUMPY = "HIPS/autograd autograd/numpy/linalg.py"
JAX_LAX = "jax-ml/jax jax/_src/lax/linalg.py"
JAX_NUMPY = "jax-ml/jax jax/_src/numpy/linalg.py"


def symmetric_part(A):
    """(A + Aᵀ)/2."""
    return (A + A.T) / 2


def positive_definite(generator, n=4):
    """A symmetric matrix with eigenvalues from about 1 up."""
    X = normal(generator, n, n)
    return X @ X.T / n + jnp.eye(n, dtype=X.dtype)


def dominant(generator, n, scale=1.0):
    """A matrix with a dominant diagonal."""
    return 2 * jnp.eye(n, dtype=jnp.float32) + 0.3 * normal(generator, n, n, scale=scale / max(scale, 1))


# Factors and spectra of symmetric matrices ---------------------------------------------------------------------------


@right(of=Function(AREA, jnp.linalg.cholesky, lambda g, scale: (positive_definite(g),)), source=JAX_LAX)
def cholesky_factor_by_triangles(ct, A):
    """L⁻ᵀ Φ(Lᵀ ct) L⁻¹ with Φ the lower triangle and half of the diagonal; the symmetric part, as A is symmetrized."""
    L = jnp.linalg.cholesky(A)
    inverse = jax.scipy.linalg.solve_triangular(L, jnp.eye(len(A), dtype=A.dtype), lower=True)
    phi = jnp.tril(L.T @ ct)
    phi = phi - jnp.diag(jnp.diag(phi)) / 2
    return (symmetric_part(inverse.T @ phi @ inverse),)


@right(of=Function(AREA, jnp.linalg.eigvalsh, lambda g, scale: (normal(g, 4, 4, scale=scale),)), source=JAX_LAX)
def eigenvalues_by_eigenvectors(ct, A):
    """V diag(ct) Vᵀ, for eigenvalues that differ."""
    _, V = jnp.linalg.eigh(A)
    return ((V * ct) @ V.T,)


def hyperbolic_tangent_of_a_matrix(A):
    """V tanh(Λ) Vᵀ of the symmetric part."""
    eigenvalues, V = jnp.linalg.eigh(A)
    return (V * jnp.tanh(eigenvalues)) @ V.T


@right(
    of=Function(AREA, hyperbolic_tangent_of_a_matrix, lambda g, scale: (normal(g, 4, 4, scale=scale),)),
    source="JuliaDiff/ChainRules.jl src/rulesets/LinearAlgebra/symmetric.jl",
)
def function_of_a_symmetric_matrix_by_difference_quotients(ct, A):
    """In the eigenbasis each element by (f(λ_i) - f(λ_j))/(λ_i - λ_j), and f'(λ_i) on the diagonal."""
    eigenvalues, V = jnp.linalg.eigh(A)
    f = jnp.tanh(eigenvalues)
    gaps = eigenvalues[:, None] - eigenvalues
    equal = jnp.eye(len(A), dtype=bool)
    quotients = jnp.where(equal, (1 - f**2)[:, None], (f[:, None] - f) / jnp.where(equal, 1, gaps))
    return (V @ (quotients * (V.T @ symmetric_part(ct) @ V)) @ V.T,)


def square_root_of_a_matrix(A):
    """The symmetric square root of the symmetric part."""
    eigenvalues, V = jnp.linalg.eigh(A)
    return (V * jnp.sqrt(eigenvalues)) @ V.T


def sylvester(A, B, C):
    """The X that solves A X + X B = C, by Kronecker products."""
    m, n = C.shape
    system = jnp.kron(A, jnp.eye(n, dtype=A.dtype)) + jnp.kron(jnp.eye(m, dtype=A.dtype), B.T)
    return jnp.linalg.solve(system, C.reshape(-1)).reshape(m, n)


@right(of=Function(AREA, square_root_of_a_matrix, lambda g, scale: (positive_definite(g),)), source=AUTOGRAD)
def matrix_square_root_by_a_sylvester_equation(ct, A):
    """R X + X R = ct for the root R."""
    root = square_root_of_a_matrix(A)
    return (symmetric_part(sylvester(root, root, ct)),)


@right(
    of=Function(AREA, sylvester, lambda g, scale: (dominant(g, 3), dominant(g, 2), normal(g, 3, 2, scale=scale))),
    source=AUTOGRAD,
)
def sylvester_equation_by_its_transpose(ct, A, B, C):
    """The equation with Aᵀ and Bᵀ by C, and the products with the solution by A and B."""
    X = sylvester(A, B, C)
    dC = sylvester(A.T, B.T, ct)
    return -dC @ X.T, -X.T @ dC, dC


def nuclear_norm(A):
    """The sum of the singular values."""
    return jnp.linalg.svd(A, compute_uv=False).sum()


@right(of=Function(AREA, nuclear_norm, lambda g, scale: (normal(g, 5, 3, scale=scale),)), source=AUTOGRAD_NUMPY)
def nuclear_norm_by_its_polar_factor(ct, A):
    """U Vᵀ, in which the singular values have no part."""
    U, _, Vt = jnp.linalg.svd(A, full_matrices=False)
    return (ct * U @ Vt,)


# Determinants, inverses and equations --------------------------------------------------------------------------------


def of_rank_two(generator, scale):
    """A matrix of integers whose third row is the sum of the others."""
    rows = jnp.asarray(generator.integers(-3, 4, (2, 3)), jnp.float32) + jnp.asarray(
        [[4, 0, 0], [0, 4, 0]], jnp.float32
    )
    return (jnp.concatenate([rows, rows.sum(axis=0, keepdims=True)]),)


@right(of=Function(AREA, jnp.linalg.det, of_rank_two), source=JAX_NUMPY)
def determinant_of_a_singular_matrix_by_cofactors(ct, A):
    """The cofactors are cross products of rows, where the inverse does not exist."""
    return (ct * jnp.stack([jnp.cross(A[1], A[2]), jnp.cross(A[2], A[0]), jnp.cross(A[0], A[1])]),)


@right(of=Function(AREA, jnp.linalg.pinv, lambda g, scale: (normal(g, 5, 3),)), source=JAX_NUMPY)
def pseudoinverse_of_a_tall_matrix_by_three_terms(ct, A):
    """-Pᵀ ct Pᵀ, and two terms with the projections on what A and Aᵀ do not reach."""
    P = jnp.linalg.pinv(A)
    m, n = A.shape
    left, right_ = jnp.eye(m, dtype=A.dtype) - A @ P, jnp.eye(n, dtype=A.dtype) - P @ A
    return (-P.T @ ct @ P.T + left @ ct.T @ P @ P.T + P.T @ P @ ct.T @ right_,)


def least_squares(A, b):
    """The x that minimizes |A x - b|, for a tall A."""
    return jnp.linalg.solve(A.T @ A, A.T @ b)


@right(
    of=Function(AREA, least_squares, lambda g, scale: (normal(g, 5, 3), normal(g, 5, scale=scale))),
    source="patrick-kidger/lineax lineax/_solve.py",
)
def least_squares_with_the_term_of_the_residual(ct, A, b):
    """Of the tangents -A⁺ A' x and A⁺ A⁺ᵀ A'ᵀ (b - A x), the second is lost where the residual is taken for zero."""
    x, u = least_squares(A, b), jnp.linalg.solve(A.T @ A, ct)
    db = A @ u
    return -jnp.outer(db, x) + jnp.outer(b - A @ x, u), db


def lower_solve(L, b):
    """The solution of L x = b, which reads the lower triangle only."""
    return jax.scipy.linalg.solve_triangular(L, b, lower=True)


@right(
    of=Function(AREA, lower_solve, lambda g, scale: (dominant(g, 4, scale), normal(g, 4, 3))),
    source=AUTOGRAD,
)
def triangular_equations_by_a_triangle(ct, L, b):
    """The upper triangle is not read and gets zero."""
    db = jax.scipy.linalg.solve_triangular(L, ct, lower=True, trans=1)
    return -jnp.tril(db @ lower_solve(L, b).T), db


def tridiagonal_solve(lower, diagonal, upper, b):
    """Tridiagonal equations, where the first of the lower and the last of the upper diagonal are not read."""
    return jax.lax.linalg.tridiagonal_solve(lower, diagonal, upper, b)


def three_diagonals(generator, scale):
    """Diagonals, the middle one dominant, and two right-hand sides."""
    lower, upper = normal(generator, 5, scale=0.5), normal(generator, 5, scale=0.5)
    return lower.at[0].set(0), normal(generator, 5, scale=0.1) + 3, upper.at[-1].set(0), normal(generator, 5, 2)


@right(of=Function(AREA, tridiagonal_solve, three_diagonals), source=JAX_LAX)
def tridiagonal_equations_by_shifted_diagonals(ct, lower, diagonal, upper, b):
    """The transpose has the diagonals exchanged and shifted; the elements that are not read get zero."""
    zero = jnp.zeros_like(lower[:1])
    x = tridiagonal_solve(lower, diagonal, upper, b)
    below, above = jnp.concatenate([zero, upper[:-1]]), jnp.concatenate([lower[1:], zero])
    db = tridiagonal_solve(below, diagonal, above, ct)
    d_lower = jnp.concatenate([zero, -(db[1:] * x[:-1]).sum(axis=1)])
    d_upper = jnp.concatenate([-(db[:-1] * x[1:]).sum(axis=1), zero])
    return d_lower, -(db * x).sum(axis=1), d_upper, db


def log_marginal_likelihood(K, y):
    """-(yᵀ K⁻¹ y + log det K)/2, of a Gaussian process, from the Cholesky factor."""
    L = jnp.linalg.cholesky(K)
    whitened = jax.scipy.linalg.solve_triangular(L, y, lower=True)
    return -0.5 * whitened @ whitened - jnp.log(jnp.diag(L)).sum()


@right(
    of=Function(AREA, log_marginal_likelihood, lambda g, scale: (positive_definite(g, 5), normal(g, 5, scale=scale))),
    source="scikit-learn/scikit-learn sklearn/gaussian_process/_gpr.py",
)
def marginal_likelihood_by_outer_products(ct, K, y):
    """(α αᵀ - K⁻¹)/2 with α = K⁻¹ y, without the derivative of a factor; K is symmetrized as in the function."""
    K = symmetric_part(K)
    factor = jax.scipy.linalg.cho_factor(K, lower=True)
    alpha = jax.scipy.linalg.cho_solve(factor, y)
    inverse = jax.scipy.linalg.cho_solve(factor, jnp.eye(len(K), dtype=K.dtype))
    return 0.5 * ct * (jnp.outer(alpha, alpha) - inverse), -ct * alpha


@right(
    of=Function(AREA, jax.scipy.linalg.expm, lambda g, scale: (normal(g, 3, 3, scale=0.5 * min(scale, 1.0)),)),
    source="jax-ml/jax jax/_src/scipy/linalg.py",
)
def matrix_exponential_by_a_block_matrix(ct, A):
    """The upper right block of the exponential of [[Aᵀ, ct], [0, Aᵀ]], with a cotangent that is scaled to 1."""
    n, size = len(A), jnp.abs(ct).max()
    size = jnp.where(size == 0, 1, size)
    block = jnp.block([[A.T, ct / size], [jnp.zeros_like(A), A.T]])
    return (size * jax.scipy.linalg.expm(block)[:n, n:],)


# Products and transforms ---------------------------------------------------------------------------------------------


@right(
    of=Function(AREA, jnp.kron, lambda g, scale: (normal(g, 2, 3, scale=scale), normal(g, 4, 1))),
    source="HIPS/autograd autograd/numpy/numpy_vjps.py",
)
def kronecker_product_by_blocks(ct, A, B):
    """Each block's inner product with B, and the blocks' sum weighted by A."""
    blocks = ct.reshape(A.shape[0], B.shape[0], A.shape[1], B.shape[1])
    return jnp.einsum("ikjl,kl->ij", blocks, B), jnp.einsum("ikjl,ij->kl", blocks, A)


@right(
    of=Function(AREA, jnp.cross, lambda g, scale: (normal(g, 5, 3, scale=scale), normal(g, 3))),
    source="HIPS/autograd autograd/numpy/numpy_vjps.py",
)
def cross_product_by_cross_products(ct, a, b):
    """b × ct and ct × a, the latter summed over the rows."""
    return jnp.cross(jnp.broadcast_to(b, ct.shape), ct), jnp.cross(ct, a).sum(axis=0)


def circular_convolution(x, kernel):
    """By the product of real Fourier transforms, of an even length."""
    return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(kernel), n=x.shape[-1])


@right(
    of=Function(AREA, circular_convolution, lambda g, scale: (normal(g, 3, 6), normal(g, 6, scale=scale))),
    source="HIPS/autograd autograd/numpy/fft.py",
)
def circular_convolution_by_conjugate_spectra(ct, x, kernel):
    """Correlations: the products with the conjugate spectra, the kernel's summed over the signals."""
    n, spectrum = x.shape[-1], jnp.fft.rfft(ct)
    dx = jnp.fft.irfft(spectrum * jnp.fft.rfft(kernel).conj(), n=n)
    return dx, jnp.fft.irfft(spectrum * jnp.fft.rfft(x).conj(), n=n).sum(axis=0)


def power_spectrum(x):
    """|X_k|² of a real signal of even length."""
    spectrum = jnp.fft.rfft(x)
    return spectrum.real**2 + spectrum.imag**2


@right(
    of=Function(AREA, power_spectrum, lambda g, scale: (normal(g, 3, 6, scale=scale),)),
    source="HIPS/autograd autograd/numpy/fft.py",
)
def power_spectrum_with_doubled_inner_frequencies(ct, x):
    """The inverse transform counts the inner frequencies twice, the first and the last of an even length once."""
    n = x.shape[-1]
    counts = jnp.full(n // 2 + 1, 2, x.dtype).at[jnp.asarray([0, -1])].set(1)
    return (n * jnp.fft.irfft(2 * ct * jnp.fft.rfft(x) / counts, n=n),)


# Rotations -----------------------------------------------------------------------------------------------------------


def rotate(vector, quaternion):
    """The vector rotated by a quaternion of any length, times the square of the length."""
    s, u = quaternion[0], quaternion[1:]
    return 2 * u @ vector * u + (s * s - u @ u) * vector + 2 * s * jnp.cross(u, vector)


@right(
    of=Function(AREA, rotate, lambda g, scale: (normal(g, 3, scale=scale), normal(g, 4))),
    source="google-deepmind/mujoco mjx/mujoco/mjx/_src/math.py",
)
def rotation_by_a_quaternion_and_its_conjugate(ct, vector, quaternion):
    """The vector's cotangent is rotated back by the conjugate; the quaternion's is written out."""
    s, u = quaternion[0], quaternion[1:]
    ds = 2 * s * vector @ ct + 2 * jnp.cross(u, vector) @ ct
    du = 2 * (u @ ct * vector + u @ vector * ct - vector @ ct * u + s * jnp.cross(vector, ct))
    return rotate(ct, quaternion.at[1:].multiply(-1)), jnp.concatenate([ds[None], du])


def coefficients(t):
    """cos θ, sin θ/θ and (1 - cos θ)/θ² for t = θ², by series near 0."""
    small = t < 1e-3
    theta = jnp.sqrt(jnp.where(small, 1, t))
    sine = jnp.where(small, 1 - t / 6 + t**2 / 120 - t**3 / 5040, jnp.sin(theta) / theta)
    versine = jnp.where(small, 0.5 - t / 24 + t**2 / 720 - t**3 / 40320, (1 - jnp.cos(theta)) / theta**2)
    return 1 - t * versine, sine, versine


def rotated(omega, v):
    """The vectors v rotated about the axes ω by the angles |ω|, row by row."""
    cosine, sine, versine = coefficients((omega**2).sum(axis=-1, keepdims=True))
    return cosine * v + sine * jnp.cross(omega, v) + versine * omega * (omega * v).sum(axis=-1, keepdims=True)


@right(
    of=Function(AREA, rotated, lambda g, scale: (normal(g, 5, 3).at[:2].set(0), normal(g, 5, 3, scale=scale))),
    source="brentyi/jaxlie jaxlie/_so3.py",
)
def rotation_about_an_axis_with_series_at_zero(ct, omega, v):
    """v is rotated back; ω acts through the vectors, and through |ω|² by the coefficients' derivatives."""
    t = (omega**2).sum(axis=-1, keepdims=True)
    _, sine, versine = coefficients(t)
    small, along, back = t < 1e-3, (omega * v).sum(axis=-1, keepdims=True), (omega * ct).sum(axis=-1, keepdims=True)
    safe = jnp.where(small, 1, t)
    cosine = 1 - t * versine
    d_sine = jnp.where(small, -1 / 6 + t / 60 - t**2 / 1680, (cosine - sine) / (2 * safe))
    d_versine = jnp.where(small, -1 / 24 + t / 360 - t**2 / 13440, (sine / 2 - versine) / safe)
    turn = jnp.cross(v, ct)
    by_t = -sine / 2 * (v * ct).sum(axis=-1, keepdims=True) + d_versine * back * along
    by_t = by_t + d_sine * (omega * turn).sum(axis=-1, keepdims=True)
    return 2 * omega * by_t + sine * turn + versine * (along * ct + back * v), rotated(-omega, ct)


def unit_rows(x):
    """Each row over its length."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@right(
    of=Function(AREA, unit_rows, lambda g, scale: (normal(g, 5, 4),)),
    source="JuliaDiff/ChainRules.jl src/rulesets/LinearAlgebra/norm.jl",
)
def unit_rows_from_their_output(ct, x):
    """The cotangent without its part along the output, over the length."""
    out = unit_rows(x)
    return ((ct - (out * ct).sum(axis=-1, keepdims=True) * out) / jnp.linalg.norm(x, axis=-1, keepdims=True),)


def rotation_angles(quaternions):
    """2 arctan(|v|/w) of each quaternion (w, v), without an inverse cosine."""
    return 2 * jnp.arctan2(jnp.linalg.norm(quaternions[:, 1:], axis=-1), quaternions[:, 0])


@right(
    of=Function(AREA, rotation_angles, lambda g, scale: (normal(g, 5, 4),)),
    source="google-deepmind/mujoco mjx/mujoco/mjx/_src/math.py",
)
def rotation_angle_by_an_arctangent_of_two_lengths(ct, quaternions):
    """(w d|v| - |v| dw)/(|v|² + w²), for quaternions of any length."""
    w, v = quaternions[:, :1], quaternions[:, 1:]
    length = jnp.linalg.norm(v, axis=-1, keepdims=True)
    share = 2 * ct[:, None] / (length**2 + w**2)
    return (jnp.concatenate([-share * length, share * w * v / length], axis=-1),)
