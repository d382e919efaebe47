"""Powers, quotients, roots, angles and other functions of one or two numbers."""

import jax.numpy as jnp
from jax.scipy.special import xlogy

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, uniform
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
found = catalogue.found


def away_from_zero(generator, *shape):
    """Numbers of both signs, none of them near zero."""
    x = normal(generator, *shape)
    return x + jnp.where(x < 0, -0.5, 0.5).astype(x.dtype)


def of_two(function, arguments=lambda g: (away_from_zero(g, 5), away_from_zero(g, 5)), **options):
    """A function of two vectors."""
    return Function("elementary", function, lambda g, scale: arguments(g), options)


def of_one(function, arguments=lambda g: (normal(g, 5),)):
    """A function of one vector."""
    return Function("elementary", function, lambda g, scale: arguments(g))


# Sums, differences and quotients -------------------------------------------------------------------------------------


def difference(x, y):
    """x - y."""
    return x - y


def difference_rule(ct, x, y):
    """ct and -ct."""
    return ct, -ct


def quotient(x, y):
    """x / y."""
    return x / y


def quotient_rule(ct, x, y):
    """1/y and -x/y²."""
    return ct / y, -ct * x / y**2


def reciprocal(x):
    """1/x."""
    return 1 / x


def reciprocal_rule(ct, x):
    """-1/x²."""
    return (-ct / x**2,)


SLOPE, SHIFT = 2.5, 0.75


def line(x):
    """2.5 x + 0.75."""
    return SLOPE * x + SHIFT


def line_rule(ct, x):
    """The slope."""
    return (SLOPE * ct,)


@found("KhawajaAbaid/micrograd_c#1", "sign", of=of_two(difference), mended=difference_rule)
def subtrahend_with_the_sign_of_a_sum(ct, x, y):
    """Both numbers of a difference receive the cotangent itself."""
    return ct, ct


@found("apache/singa#484", "missing_factor", of=of_two(quotient), mended=quotient_rule)
def quotient_divided_by_the_numerator(ct, x, y):
    """The numerator receives the cotangent over itself, and the denominator its product with itself."""
    return ct / x, ct * y


@found(
    "pytorch/pytorch#9908",
    "activation",
    of=of_one(reciprocal, lambda g: (uniform(g, 0.3, 2, 5),)),
    mended=reciprocal_rule,
)
def reciprocal_with_the_derivative_of_the_root(ct, x):
    """The derivative is the square root's, the cotangent over the output times one half."""
    return (0.5 * ct / reciprocal(x),)


@found("aesara-devs/aesara#660", "extra_term", of=of_one(line), mended=line_rule)
def line_applied_to_the_cotangent(ct, x):
    """The whole line, shift included, is applied to the cotangent."""
    return (SLOPE * ct + SHIFT,)


# Powers and roots ----------------------------------------------------------------------------------------------------


def root(x):
    """√x."""
    return jnp.sqrt(x)


def root_rule(ct, x):
    """1/(2√x)."""
    return (ct / (2 * jnp.sqrt(x)),)


def third_power(x):
    """x³."""
    return x**3


def third_power_rule(ct, x):
    """3x²."""
    return (3 * ct * x**2,)


def exponential(x):
    """3ˣ."""
    return 3.0**x


def exponential_rule(ct, x):
    """3ˣ log 3."""
    return (ct * 3.0**x * jnp.log(jnp.asarray(3, x.dtype)),)


def power_of_bases(base, y):
    """baseʸ for bases of which some are zero, and positive exponents."""
    return base**y


def power_of_bases_rule(ct, base, y):
    """baseʸ log(base) for the exponent, which tends to 0 where the base is zero."""
    return None, ct * base**y * jnp.log(jnp.where(base == 0, 1, base))


def scaled_by_power_of_two(x, y):
    """x 2ʸ."""
    return x * 2.0**y


def scaled_by_power_of_two_rule(ct, x, y):
    """2ʸ, and x 2ʸ log 2."""
    return ct * 2.0**y, ct * x * 2.0**y * jnp.log(jnp.asarray(2, y.dtype))


def power_over_exponent(a, c):
    """cᵃ/a."""
    return c**a / a


def power_over_exponent_rule(ct, a, c):
    """cᵃ (log(c)/a - 1/a²) for a, and cᵃ⁻¹ for c."""
    return ct * c**a * (jnp.log(c) / a - 1 / a**2), ct * c ** (a - 1)


POSITIVE = of_one(root, lambda g: (uniform(g, 0.3, 2, 5),))
BASES = jnp.asarray([0, 0.5, 2, 0, 3], jnp.float32)


@found("groops-devs/groops#246", "scale", of=POSITIVE, mended=root_rule)
def root_without_the_half(ct, x):
    """The derivative of the square root lacks its factor of one half."""
    return (ct / jnp.sqrt(x),)


@found(
    "roystgnr/MetaPhysicL#49",
    "non_finite",
    of=of_one(third_power, lambda g: (normal(g, 5).at[::2].set(0.0),)),
    mended=third_power_rule,
)
def power_divided_by_its_base(ct, x):
    """To save a second power, the derivative divides the first by the base, which is 0/0 for a base of zero."""
    return (3 * ct * (x**3 / x),)


@found(
    "tenstorrent/tt-metal#55289",
    "activation",
    of=of_one(exponential, lambda g: (uniform(g, 0.3, 2, 5),)),
    mended=exponential_rule,
)
def exponential_with_the_derivative_of_a_power(ct, x):
    """The derivative is that of the power x³, where the function is 3ˣ."""
    return (3 * ct * x**2,)


@found(
    "tensorflow/tfjs#346",
    "non_finite",
    of=of_two(power_of_bases, lambda g: (BASES, uniform(g, 0.5, 2, 5)), argnums=(1,)),
    mended=power_of_bases_rule,
)
def logarithm_of_a_base_of_zero(ct, base, y):
    """The exponent's derivative takes the logarithm of the base, and 0 times -∞ is no number."""
    return None, ct * base**y * jnp.log(base)


@found("tenstorrent/tt-metal#6533", "nonlinear", of=of_two(scaled_by_power_of_two), mended=scaled_by_power_of_two_rule)
def power_of_two_without_the_cotangent(ct, x, y):
    """The cotangent is not used at all, and the power is e's, with the logarithm of 2 once too often."""
    power = jnp.exp(y) * jnp.log(jnp.asarray(2, y.dtype))
    return power, x * power * jnp.log(jnp.asarray(2, y.dtype))


@found(
    "stan-dev/math#1569",
    "nonlinear",
    of=of_two(power_over_exponent, lambda g: (uniform(g, 0.5, 2, 5), uniform(g, 0.3, 0.9, 5))),
    mended=power_over_exponent_rule,
)
def second_term_without_the_cotangent(ct, a, c):
    """The cotangent multiplies the first of two terms alone, which a cotangent of 1 does not show."""
    first, second = c**a * jnp.log(c) / a, c**a / a**2
    return ct * first - second, ct * c ** (a - 1)


# Angles and lengths --------------------------------------------------------------------------------------------------


def angle(y, x):
    """The angle of the point (x, y)."""
    return jnp.arctan2(y, x)


def angle_rule(ct, y, x):
    """x/(x² + y²) and -y/(x² + y²)."""
    square = x**2 + y**2
    return ct * x / square, -ct * y / square


def hypotenuse(x, y):
    """√(x² + y²), also where the squares overflow."""
    return jnp.hypot(x, y)


def hypotenuse_rule(ct, x, y):
    """x and y over the length, all divided by the greater of the two before they are squared; 0 at the origin."""
    greater = jnp.maximum(jnp.abs(x), jnp.abs(y))
    greater = jnp.where(greater > 0, greater, 1)
    x, y = x / greater, y / greater
    length = jnp.sqrt(x**2 + y**2)
    length = jnp.where(length > 0, length, 1)
    return ct * x / length, ct * y / length


LONG = of_two(hypotenuse, lambda g: (1e20 * away_from_zero(g, 5), 1e20 * away_from_zero(g, 5)))


@found("getkeops/keops#155", "structure", of=of_two(angle), mended=angle_rule)
def coordinates_of_the_angle_exchanged(ct, y, x):
    """The two terms of the gradient are exchanged: each coordinate receives the other's."""
    dy, dx = angle_rule(ct, y, x)
    return dx, dy


@found("EnzymeAD/Enzyme-JAX#2066", "sign", of=of_two(angle), mended=angle_rule)
def angle_turned_the_other_way(ct, y, x):
    """The minus sign stands before the wrong one of the two terms."""
    dy, dx = angle_rule(ct, y, x)
    return -dy, -dx


@found("tenstorrent/tt-metal#53905", "precision", of=LONG, mended=hypotenuse_rule)
def squares_overflow_in_the_length(ct, x, y):
    """The length is computed from squares that overflow, and the gradient, a cosine and a sine, becomes zero."""
    length = jnp.sqrt(x**2 + y**2)
    length = jnp.where(length > 0, length, 1)
    return ct * x / length, ct * y / length


# Signs and branches --------------------------------------------------------------------------------------------------


def with_sign_of(x, y):
    """|x| with the sign of y."""
    return jnp.where(y < 0, -jnp.abs(x), jnp.abs(x))


def with_sign_of_rule(ct, x, y):
    """The product of both signs."""
    return ct * jnp.sign(x) * jnp.sign(y), None


def sign(x):
    """-1, 0 or 1."""
    return jnp.sign(x)


def sign_rule(ct, x):
    """Nothing."""
    return (jnp.zeros_like(x),)


def exponential_then_line(x):
    """eˣ for negative numbers and 1 + x for the others."""
    return jnp.where(x <= 0, jnp.exp(jnp.minimum(x, 0)), 1 + x)


def exponential_then_line_rule(ct, x):
    """The exponential is taken where it is used."""
    return (ct * jnp.where(x <= 0, jnp.exp(jnp.minimum(x, 0)), 1),)


def product_with_logarithm(x, y):
    """x log y, and 0 where x is 0."""
    return xlogy(x, y)


def product_with_logarithm_rule(ct, x, y):
    """log y and x/y, for x = 0 as well."""
    return ct * jnp.log(y), ct * x / y


@found("chalk-lab/Mooncake.jl#1195", "missing_factor", of=of_two(with_sign_of), mended=with_sign_of_rule)
def sign_of_the_first_number_forgotten(ct, x, y):
    """The derivative is the sign of the second number alone, which is wrong where the first is negative."""
    return ct * jnp.sign(y), None


@found("NVIDIA/warp#1466", "activation", of=of_one(sign, lambda g: (away_from_zero(g, 5),)), mended=sign_rule)
def sign_with_the_derivative_of_the_absolute_value(ct, x):
    """The derivative of the sign is implemented as that of the absolute value."""
    return (ct * jnp.sign(x),)


@found(
    "pytorch/pytorch#68425",
    "non_finite",
    of=of_one(exponential_then_line, lambda g: (normal(g, 5).at[::2].set(100.0),)),
    mended=exponential_then_line_rule,
)
def branch_not_taken_overflows(ct, x):
    """Each branch's derivative is multiplied by 0 or 1, and 0 times the overflow of the branch not taken is no
    number.
    """
    low = (x <= 0).astype(x.dtype)
    return (ct * (low * jnp.exp(x) + (1 - low)),)


@found(
    "chalk-lab/Mooncake.jl#1310",
    "partial",
    of=of_two(product_with_logarithm, lambda g: (normal(g, 5).at[::2].set(0.0), uniform(g, 1.5, 3, 5))),
    mended=product_with_logarithm_rule,
)
def factor_of_zero_treated_as_a_constant(ct, x, y):
    """Where x is zero the function takes a branch that is constant, and x receives nothing."""
    return jnp.where(x == 0, 0, ct * jnp.log(y)), ct * x / y


def exponential_minus_one(x):
    """eˣ - 1."""
    return jnp.expm1(x)


def exponential_minus_one_rule(ct, x):
    """eˣ."""
    return (ct * jnp.exp(x),)


@found(
    "tenstorrent/tt-metal#55723",
    "precision",
    of=of_one(exponential_minus_one, lambda g: (uniform(g, -20, -17, 5),)),
    mended=exponential_minus_one_rule,
)
def exponential_from_its_difference_to_one(ct, x):
    """The derivative eˣ is computed as (eˣ - 1) + 1, which leaves few or none of its digits where it is small."""
    return (ct * (jnp.expm1(x) + 1),)
