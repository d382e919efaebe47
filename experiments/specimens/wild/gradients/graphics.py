# ruff: noqa: N803, N806 (matrices are capital letters, as in the lecture)
"""Rotations, and the parts of a renderer of Gaussians."""

import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, uniform
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found

# Gaussians in the image plane ----------------------------------------------------------------------------------------


def splat(a, b, c, d):
    """The weight exp(-(a dx² + c dy²)/2 - b dx dy) of a pixel at distance d from each center."""
    return jnp.exp(-(a * d[:, 0] ** 2 + c * d[:, 1] ** 2) / 2 - b * d[:, 0] * d[:, 1])


def splat_rule(ct, a, b, c, d):
    """The weight times the derivative of its exponent."""
    g, x, y = ct * splat(a, b, c, d), d[:, 0], d[:, 1]
    return -g * x**2 / 2, -g * x * y, -g * y**2 / 2, -g[:, None] * jnp.stack([a * x + b * y, c * y + b * x], axis=1)


SPLAT = Function(
    "graphics",
    splat,
    lambda g, scale: (uniform(g, 0.5, 1.5, 5), 0.3 * normal(g, 5), uniform(g, 0.5, 1.5, 5), normal(g, 5, 2)),
)


@found("graphdeco-inria/diff-gaussian-rasterization#94", "scale", of=SPLAT, mended=splat_rule)
def mixed_coefficient_with_the_half_of_the_squares(ct, a, b, c, d):
    """The coefficient of the mixed product receives the factor of one half that belongs to the squares."""
    da, db, dc, dd = splat_rule(ct, a, b, c, d)
    return da, db / 2, dc, dd


def packed(M):
    """The three numbers of symmetric 2 by 2 matrices."""
    return jnp.stack([M[:, 0, 0], M[:, 0, 1], M[:, 1, 1]], axis=1)


def symmetric(v, mixed=1.0):
    """The matrices of these three numbers, the second multiplied by a factor in both of its places."""
    a, b, c = v[:, 0], mixed * v[:, 1], v[:, 2]
    return jnp.stack([jnp.stack([a, b], axis=1), jnp.stack([b, c], axis=1)], axis=1)


def conic(covariance):
    """The inverse of symmetric matrices, three numbers each."""
    a, b, c = covariance.T
    return jnp.stack([c, -b, a], axis=1) / (a * c - b**2)[:, None]


def conic_back(ct, covariance, mixed):
    """-M G M with the cotangent's matrix G, whose mixed number is multiplied by this factor."""
    M = symmetric(conic(covariance))
    V = -M @ symmetric(ct, mixed) @ M
    return (packed(V) * jnp.asarray([1, 2, 1], V.dtype),)


def conic_rule(ct, covariance):
    """The mixed number stands in two places of the matrix, and each has half of its cotangent."""
    return conic_back(ct, covariance, 0.5)


CONIC = Function(
    "graphics",
    conic,
    lambda g, scale: (jnp.stack([uniform(g, 1, 2, 5), uniform(g, -0.7, 0.7, 5), uniform(g, 1, 2, 5)], axis=1),),
)


@found("nerfstudio-project/gsplat#136", "value", of=CONIC, mended=conic_rule)
def mixed_cotangent_counted_in_both_places(ct, covariance):
    """The cotangent of the number that stands in two places of a symmetric matrix enters both of them whole."""
    return conic_back(ct, covariance, 1.0)


GLOBAL_SCALE = 1.7


def spread(s, R):
    """The covariance M Mᵀ of M = R diag(1.7 s)."""
    M = R * (GLOBAL_SCALE * s)
    return M @ M.T


def spread_rule(ct, s, R):
    """Back through the product, and through both factors of the scale."""
    dM = (ct + ct.T) @ (R * (GLOBAL_SCALE * s))
    return GLOBAL_SCALE * (R * dM).sum(axis=0), dM * (GLOBAL_SCALE * s)


SPREAD = Function("graphics", spread, lambda g, scale: (uniform(g, 0.5, 1.5, 3), normal(g, 3, 3)))


@found("nerfstudio-project/gsplat#136", "scale", of=SPREAD, mended=spread_rule)
def global_scale_left_out_of_the_gradient(ct, s, R):
    """The forward pass multiplies the scales by a global one, which their gradient does not contain."""
    ds, dR = spread_rule(ct, s, R)
    return ds / GLOBAL_SCALE, dR


# Rotations -----------------------------------------------------------------------------------------------------------


def rotation(u):
    """The rotation of a quaternion of length 1."""
    w, x, y, z = u
    return jnp.stack(
        [
            jnp.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]),
            jnp.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]),
            jnp.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]),
        ]
    )


def rotation_back(G, u):
    """The cotangent of the quaternion as if its four numbers were free."""
    w, x, y, z = u
    twist = jnp.stack([G[2, 1] - G[1, 2], G[0, 2] - G[2, 0], G[1, 0] - G[0, 1]])
    S = G + G.T
    return 2 * jnp.stack(
        [
            x * twist[0] + y * twist[1] + z * twist[2],
            w * twist[0] + y * S[0, 1] + z * S[0, 2] - 2 * x * (G[1, 1] + G[2, 2]),
            w * twist[1] + x * S[0, 1] + z * S[1, 2] - 2 * y * (G[0, 0] + G[2, 2]),
            w * twist[2] + x * S[0, 2] + y * S[1, 2] - 2 * z * (G[0, 0] + G[1, 1]),
        ]
    )


def normalized(q):
    """q/|q|."""
    return q / jnp.sqrt((q**2).sum())


def normalized_rule(ct, q):
    """What is perpendicular to q, over its length."""
    length = jnp.sqrt((q**2).sum())
    return ((ct - q * (q @ ct) / length**2) / length,)


def rotation_of_any(q):
    """The rotation of a quaternion of any length."""
    return rotation(normalized(q))


def rotation_of_any_rule(ct, q):
    """Small rotations about the three axes turn q in three directions perpendicular to it."""
    w, x, y, z = u = normalized(q)
    T = rotation(u).T @ ct
    turn = jnp.stack([T[2, 1] - T[1, 2], T[0, 2] - T[2, 0], T[1, 0] - T[0, 1]])
    directions = jnp.stack([jnp.stack([-x, w, z, -y]), jnp.stack([-y, -z, w, x]), jnp.stack([-z, y, -x, w])])
    return (2 * (turn @ directions) / jnp.sqrt((q**2).sum()),)


def seen_by_cameras(q, views):
    """The rotation in the coordinates of several cameras."""
    return views @ rotation_of_any(q)


def seen_by_cameras_rule(ct, q, views):
    """The quaternion receives the sum over the cameras."""
    (dq,) = rotation_of_any_rule(jnp.einsum("kji,kjl->il", views, ct), q)
    return dq, ct @ rotation_of_any(q).T


def quaternion(generator):
    """A quaternion whose length is not 1."""
    return 2 + normal(generator, 4, scale=0.5)


NORMALIZED = Function("graphics", normalized, lambda g, scale: (quaternion(g),))
ROTATION = Function("graphics", rotation_of_any, lambda g, scale: (quaternion(g),))
CAMERAS = Function("graphics", seen_by_cameras, lambda g, scale: (quaternion(g), normal(g, 2, 3, 3)))


@found("nerfstudio-project/gsplat#153", "missing_factor", of=ROTATION, mended=rotation_of_any_rule)
def normalization_of_the_quaternion_left_out(ct, q):
    """The backward pass normalizes the quaternion as the forward pass does, and returns the gradient of what it has
    normalized.
    """
    return (rotation_back(ct, normalized(q)),)


@found("hanmekim/SceneLib2#22", "value", of=NORMALIZED, mended=normalized_rule)
def squared_length_taken_for_the_length(ct, q):
    """In the Jacobian of the normalization the squared length stands where the length belongs."""
    length = (q**2).sum()
    return ((ct - q * (q @ ct) / length**2) / length,)


@found("openvdb/fvdb-core#435", "missing_reduction", of=CAMERAS, mended=seen_by_cameras_rule)
def quaternion_with_the_gradient_of_one_camera(ct, q, views):
    """The gradients of the cameras are summed for all parameters but the quaternion, which keeps that of the first."""
    _, d_views = seen_by_cameras_rule(ct, q, views)
    return rotation_of_any_rule(views[0].T @ ct[0], q)[0], d_views


# Colors that depend on the direction ---------------------------------------------------------------------------------

CONSTANT, LINEAR = 0.28209479177387814, 0.4886025119029199


def color(coefficients, direction):
    """Spherical harmonics of degree 1 of three color channels, in a direction of any length."""
    x, y, z = normalized(direction)
    basis = jnp.stack([jnp.full_like(x, CONSTANT), -LINEAR * y, LINEAR * z, -LINEAR * x])
    return coefficients @ basis


def color_rule(ct, coefficients, direction):
    """The basis for the coefficients, and their own weights for the direction."""
    x, y, z = normalized(direction)
    basis = jnp.stack([jnp.full_like(x, CONSTANT), -LINEAR * y, LINEAR * z, -LINEAR * x])
    weights = LINEAR * (ct @ coefficients)
    return jnp.outer(ct, basis), normalized_rule(jnp.stack([-weights[3], -weights[1], weights[2]]), direction)[0]


COLOR = Function("graphics", color, lambda g, scale: (normal(g, 3, 4, scale=scale), 1 + normal(g, 3, scale=0.5)))


@found("nerfstudio-project/gsplat#183", "zero", of=COLOR, mended=color_rule)
def direction_of_a_color_receives_nothing(ct, coefficients, direction):
    """The harmonics depend on the direction of view, but its gradient is not implemented."""
    return color_rule(ct, coefficients, direction)[0], None
