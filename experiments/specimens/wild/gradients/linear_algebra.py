# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Products, solutions, inverses, factorizations and implicit functions."""

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, uniform
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found

# Products ------------------------------------------------------------------------------------------------------------


def product(A, B):
    """A B, where a matrix may be shared by a batch of others."""
    return A @ B


def product_rule(ct, A, B):
    """ct Bᵀ and Aᵀ ct."""
    return ct @ B.T, A.T @ ct


def shared_product_rule(ct, A, B):
    """The shared matrix receives the sum over the batch."""
    return jnp.einsum("nij,nkj->ik", ct, B), A.T @ ct


def matrix_vector_rule(ct, A, b):
    """The outer product of ct and b, and Aᵀ ct."""
    return jnp.outer(ct, b), A.T @ ct


SQUARE_PRODUCT = Function("linear algebra", product, lambda g, scale: (normal(g, 4, 4, scale=scale), normal(g, 4, 4)))
SHARED_PRODUCT = Function(
    "linear algebra", product, lambda g, scale: (normal(g, 3, 4, scale=scale), normal(g, 2, 4, 5))
)
MATRIX_VECTOR = Function("linear algebra", product, lambda g, scale: (normal(g, 4, 4, scale=scale), normal(g, 4)))


@found("tile-ai/TileOPs#54", "transpose", of=SQUARE_PRODUCT, mended=product_rule)
def factors_of_a_square_product_not_transposed(ct, A, B):
    """Both matrix products of the backward pass leave out the transpose, which no shape tells for square matrices."""
    return ct @ B, A @ ct


@found(
    "Shubham-cyber-prog/100-Days-Of-Web-Development-ECWoC26#1378", "nonlinear", of=SQUARE_PRODUCT, mended=product_rule
)
def product_itself_in_place_of_the_cotangent(ct, A, B):
    """The backward pass multiplies the output of the forward pass where the output's gradient belongs."""
    return product_rule(A @ B, A, B)


@found("flashlight/flashlight#760", "missing_reduction", of=SHARED_PRODUCT, mended=shared_product_rule)
def shared_matrix_keeps_one_gradient_for_each_of_the_batch(ct, A, B):
    """A matrix that multiplies a whole batch receives a batch of gradients, not their sum."""
    return jnp.einsum("nij,nkj->nik", ct, B), A.T @ ct


@found("harvard-edge/cs249r_book#1781", "shape", of=MATRIX_VECTOR, mended=matrix_vector_rule)
def transpose_of_a_vector_does_nothing(ct, A, b):
    """The gradient of the matrix is written ct bᵀ, but the transpose of a vector is itself and the product a number."""
    return ct @ b.T, A.T @ ct


def bilinear(x, W, y):
    """z_k = xᵀ W_k y for each example."""
    return jnp.einsum("ni,kij,nj->nk", x, W, y)


def bilinear_rule(ct, x, W, y):
    """All three cotangents are sums over the outputs, weighted by ct."""
    dx, dy = jnp.einsum("nk,kij,nj->ni", ct, W, y), jnp.einsum("nk,kij,ni->nj", ct, W, x)
    return dx, jnp.einsum("nk,ni,nj->kij", ct, x, y), dy


BILINEAR = Function(
    "linear algebra", bilinear, lambda g, scale: (normal(g, 5, 4), normal(g, 2, 4, 3, scale=scale), normal(g, 5, 3))
)


@found("torch/nn#657", "nonlinear", of=BILINEAR, mended=bilinear_rule)
def inputs_of_a_bilinear_layer_without_the_cotangent(ct, x, W, y):
    """The gradients of both inputs are sums over the outputs that are not weighted by the outputs' gradient."""
    _, dW, _ = bilinear_rule(ct, x, W, y)
    return jnp.einsum("kij,nj->ni", W, y), dW, jnp.einsum("kij,ni->nj", W, x)


def sparse_transposed_product(values, B, rows, columns):
    """Aᵀ B of a sparse square matrix, given by its values and where they stand."""
    return jnp.zeros((B.shape[0], B.shape[1]), B.dtype).at[columns].add(values[:, None] * B[rows])


def sparse_transposed_product_rule(ct, values, B, rows, columns):
    """In Aᵀ the columns of A belong to the output and its rows to B."""
    dB = jnp.zeros_like(B).at[rows].add(values[:, None] * ct[columns])
    return (ct[columns] * B[rows]).sum(axis=1), dB, None, None


SPARSE = Function(
    "linear algebra",
    sparse_transposed_product,
    lambda g, scale: (
        normal(g, 6, scale=scale),
        normal(g, 4, 3),
        jnp.asarray([0, 0, 1, 2, 3, 3], jnp.int32),
        jnp.asarray([1, 3, 1, 0, 0, 2], jnp.int32),
    ),
)


@found("jax-ml/jax#40625", "transpose", of=SPARSE, mended=sparse_transposed_product_rule)
def sparse_values_as_if_not_transposed(ct, values, B, rows, columns):
    """The gradient of the values pairs the rows with the output and the columns with B, whether A is transposed or
    not.
    """
    _, dB, _, _ = sparse_transposed_product_rule(ct, values, B, rows, columns)
    return (ct[rows] * B[columns]).sum(axis=1), dB, None, None


# Triangular systems --------------------------------------------------------------------------------------------------


def lower_triangle(generator, n):
    """A full matrix whose lower triangle is far from singular."""
    return normal(generator, n, n) + 3 * jnp.eye(n, dtype=jnp.float32)


def solved(L, b):
    """x of L x = b, for the lower triangle of the matrix given."""
    return solve_triangular(L, b, lower=True)


def solved_rule(ct, L, b):
    """λ of Lᵀ λ = ct for b, and the lower triangle of -λ xᵀ."""
    adjoint = solve_triangular(L, ct, lower=True, trans=1)
    return -jnp.tril(adjoint @ solved(L, b).T), adjoint


def solved_with_unit_diagonal(L, b):
    """x of L x = b, where the diagonal is 1 whatever the matrix says."""
    return solve_triangular(L, b, lower=True, unit_diagonal=True)


def solved_with_unit_diagonal_rule(ct, L, b):
    """The diagonal is never read and receives nothing."""
    adjoint = solve_triangular(L, ct, lower=True, trans=1, unit_diagonal=True)
    return -jnp.tril(adjoint @ solved_with_unit_diagonal(L, b).T, -1), adjoint


def solved_transposed(L, b):
    """x of Lᵀ x = b."""
    return solve_triangular(L, b, lower=True, trans=1)


def solved_transposed_rule(ct, L, b):
    """λ of L λ = ct, and the lower triangle of -x λᵀ."""
    adjoint = solve_triangular(L, ct, lower=True)
    return -jnp.tril(solved_transposed(L, b) @ adjoint.T), adjoint


def triangular(function):
    """The function at a matrix of 4 and two right-hand sides."""
    return Function("linear algebra", function, lambda g, scale: (lower_triangle(g, 4), normal(g, 4, 2, scale=scale)))


@found("tensor4all/tenferro-rs#772", "zero", of=triangular(solved), mended=solved_rule)
def matrix_of_a_triangular_system_receives_nothing(ct, L, b):
    """Only the right-hand side is treated as an input; the cotangent of the matrix is dropped."""
    return None, solved_rule(ct, L, b)[1]


@found(
    "pymc-devs/pytensor#1230", "mask", of=triangular(solved_with_unit_diagonal), mended=solved_with_unit_diagonal_rule
)
def unit_diagonal_receives_a_gradient(ct, L, b):
    """With a unit diagonal the matrix's own diagonal is not read, but its gradient is that of the whole triangle."""
    adjoint = solve_triangular(L, ct, lower=True, trans=1, unit_diagonal=True)
    return -jnp.tril(adjoint @ solved_with_unit_diagonal(L, b).T), adjoint


@found("pymc-devs/pytensor#1230", "transpose", of=triangular(solved_transposed), mended=solved_transposed_rule)
def transposed_system_treated_as_the_plain_one(ct, L, b):
    """The gradient of a solution with the transposed matrix is computed as if the matrix had not been transposed."""
    adjoint = solve_triangular(L, ct, lower=True, trans=1)
    return -jnp.tril(adjoint @ solved_transposed(L, b).T), adjoint


# Inverses ------------------------------------------------------------------------------------------------------------


def regular(generator, n):
    """A matrix far from singular, which is not symmetric."""
    return normal(generator, n, n) + 4 * jnp.eye(n, dtype=jnp.float32)


def inverse(A):
    """A⁻¹."""
    return jnp.linalg.inv(A)


def inverse_rule(ct, A):
    """-A⁻ᵀ ct A⁻ᵀ."""
    Y = jnp.linalg.inv(A)
    return (-Y.T @ ct @ Y.T,)


def inverse_square(A):
    """A⁻²."""
    Y = jnp.linalg.inv(A)
    return Y @ Y


def inverse_square_rule(ct, A):
    """The rule of the square, then that of the inverse."""
    Y = jnp.linalg.inv(A)
    dY = ct @ Y.T + Y.T @ ct
    return (-Y.T @ dY @ Y.T,)


INVERSE = Function("linear algebra", inverse, lambda g, scale: (regular(g, 3),))
INVERSE_SQUARE = Function("linear algebra", inverse_square, lambda g, scale: (regular(g, 3),))


@found("pytorch/pytorch.github.io#2135", "transpose", of=INVERSE, mended=inverse_rule)
def inverse_not_transposed(ct, A):
    """The axes -2 and -1 given to NumPy's transpose are the order that the matrix has, so that nothing is exchanged."""
    Y = jnp.linalg.inv(A)
    return (-jnp.transpose(Y, (0, 1)) @ ct @ jnp.transpose(Y, (0, 1)),)


@found("ooples/AiDotNet.Tensors#231", "zero", of=INVERSE_SQUARE, mended=inverse_square_rule)
def negative_power_gives_its_gradient_to_the_inverse(ct, A):
    """For a negative power the gradient is accumulated for the inverse, a local matrix that no one reads, and the
    matrix itself receives nothing.
    """
    return (jnp.zeros_like(A),)


# Symmetric matrices --------------------------------------------------------------------------------------------------


def definite(generator, n):
    """A symmetric positive definite matrix."""
    M = normal(generator, n, n)
    return M @ M.T / n + jnp.eye(n, dtype=jnp.float32)


def lower_half(A):
    """The lower triangle with half of the diagonal."""
    return jnp.tril(A) - jnp.diag(jnp.diag(A)) / 2


def through_factor(ct, L):
    """L⁻ᵀ Φ(Lᵀ ct) L⁻¹ of a Cholesky factor, where Φ is the lower half: any matrix with the right symmetric part."""
    left = solve_triangular(L, lower_half(L.T @ ct), lower=True, trans=1)
    return solve_triangular(L, left.T, lower=True, trans=1).T


def folded(A, triangle):
    """Both triangles added up in one of them."""
    return triangle(A + A.T) - jnp.diag(jnp.diag(A))


def cholesky(A):
    """The factor L of the symmetric part of A."""
    return jnp.linalg.cholesky((A + A.T) / 2)


def cholesky_rule(ct, A):
    """The symmetric part of L⁻ᵀ Φ(Lᵀ ct) L⁻¹."""
    S = through_factor(ct, cholesky(A))
    return ((S + S.T) / 2,)


def cholesky_of_upper(A):
    """The upper factor of the symmetric matrix whose upper triangle is that of A; the lower one is not read."""
    return jnp.linalg.cholesky(jnp.triu(A) + jnp.triu(A, 1).T).T


def cholesky_of_upper_rule(ct, A):
    """Both triangles' share belongs to the upper one."""
    return (folded(through_factor(ct.T, cholesky_of_upper(A).T), jnp.triu),)


def spectral_sum(A):
    """Σ sin λ of the eigenvalues of the symmetric part of A."""
    return jnp.sin(jnp.linalg.eigvalsh((A + A.T) / 2)).sum()


def spectral_sum_rule(ct, A):
    """V diag(cos λ) Vᵀ."""
    values, V = jnp.linalg.eigh((A + A.T) / 2)
    return (ct * (V * jnp.cos(values)) @ V.T,)


CHOLESKY = Function("linear algebra", cholesky, lambda g, scale: (definite(g, 3),))
CHOLESKY_OF_UPPER = Function("linear algebra", cholesky_of_upper, lambda g, scale: (definite(g, 3),))
SPECTRAL_SUM = Function("linear algebra", spectral_sum, lambda g, scale: (definite(g, 3),))


@found("pytorch/pytorch#18825", "mask", of=CHOLESKY, mended=cholesky_rule)
def gradient_of_a_symmetric_matrix_in_one_triangle(ct, A):
    """The gradient with respect to a symmetric matrix is a lower triangle with its elements doubled."""
    return (folded(through_factor(ct, cholesky(A)), jnp.tril),)


@found("jax-ml/jax#40421", "mask", of=CHOLESKY_OF_UPPER, mended=cholesky_of_upper_rule)
def triangle_that_is_not_read_receives_a_gradient(ct, A):
    """The factorization of the upper triangle hands a part of the gradient to the lower one, which it ignores."""
    return (through_factor(ct.T, cholesky_of_upper(A).T),)


@found("JuliaDiff/ChainRules.jl#841", "mask", of=SPECTRAL_SUM, mended=spectral_sum_rule)
def eigenvalues_of_a_full_matrix_from_one_triangle(ct, A):
    """If the matrix happens to be symmetric, its gradient is collapsed onto the upper triangle, although all of its
    elements are free.
    """
    return (folded(spectral_sum_rule(ct, A)[0], jnp.triu),)


def cube(A):
    """S³ of the symmetric part S of A."""
    S = (A + A.T) / 2
    return S @ S @ S


def spectral_rule(ct, A, slopes):
    """V (Vᵀ ct V ⊙ slopes) Vᵀ and its symmetric part, with a slope for each pair of eigenvalues."""
    values, V = jnp.linalg.eigh((A + A.T) / 2)
    dS = V @ (V.T @ ct @ V * slopes(values[:, None], values[None, :])) @ V.T
    return ((dS + dS.T) / 2,)


def cube_rule(ct, A):
    """The slope between two eigenvalues of the cube is a² + ab + b², for equal ones as well."""
    return spectral_rule(ct, A, lambda a, b: a**2 + a * b + b**2)


CUBE = Function(
    "linear algebra", cube, lambda g, scale: (uniform(g, 0.5, 1.5) * jnp.diag(jnp.asarray([1, 1, 2], jnp.float32)),)
)


@found("pytorch/pytorch#23133", "non_finite", of=CUBE, mended=cube_rule)
def slope_between_equal_eigenvalues(ct, A):
    """The difference of two values is divided by the difference of their eigenvalues, which is 0/0 for equal ones."""

    def slopes(a, b):
        return jnp.where(jnp.eye(len(a), dtype=bool), 3 * a**2, (a**3 - b**3) / (a - b))

    return spectral_rule(ct, A, slopes)


def log_density(x, covariance):
    """The logarithm of a normal density around zero, without its constant."""
    return -(x @ jnp.linalg.solve(covariance, x) + jnp.linalg.slogdet(covariance)[1]) / 2


def log_density_rule(ct, x, covariance):
    """-C⁻¹x, and (C⁻¹x xᵀC⁻¹ - C⁻¹)/2 for the covariance."""
    P = jnp.linalg.inv(covariance)
    y = P.T @ x
    return -ct * (P @ x + y) / 2, ct * (jnp.outer(y, P @ x) - P.T) / 2


LOG_DENSITY = Function("linear algebra", log_density, lambda g, scale: (normal(g, 3), definite(g, 3)))


@found("HIPS/autograd#412", "sign", of=LOG_DENSITY, mended=log_density_rule)
def covariance_with_the_opposite_sign(ct, x, covariance):
    """The gradient of the log density with respect to the covariance has the wrong sign."""
    dx, d_covariance = log_density_rule(ct, x, covariance)
    return dx, -d_covariance


# Implicit functions --------------------------------------------------------------------------------------------------

NEWTON_STEPS, STEP_SIZE = 8, 0.75


def root(a):
    """y of y + sin(y)/2 = a, by Newton's method."""
    y = a
    for _ in range(NEWTON_STEPS):
        y = y - (y + jnp.sin(y) / 2 - a) / (1 + jnp.cos(y) / 2)
    return y


def root_rule(ct, a):
    """The implicit function's slope, 1/(1 + cos(y)/2)."""
    return (ct / (1 + jnp.cos(root(a)) / 2),)


ROOT = Function("implicit", root, lambda g, scale: (normal(g, 5, scale=scale),))


@found("facebookresearch/theseus#39", "scale", of=ROOT, mended=root_rule)
def implicit_gradient_through_a_damped_step(ct, a):
    """The implicit gradient is that of one more Newton step from the root, which is taken with the optimizer's step
    size and not with 1.
    """
    return (STEP_SIZE * ct / (1 + jnp.cos(root(a)) / 2),)
