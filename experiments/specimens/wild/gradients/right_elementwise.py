"""Right rules of elementwise functions that save the output, or are arranged so that nothing cancels or overflows."""

import math

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, uniform
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
right = catalogue.right

AREA = "elementwise"
AUTOGRAD = "HIPS/autograd autograd/numpy/numpy_vjps.py"
TORCH = "pytorch/pytorch tools/autograd/derivatives.yaml"
TFP = "tensorflow/probability tensorflow_probability/python/math/generic.py"


def elementwise(function, *, low=None, high=None):
    """A function of one array, of normal numbers or of uniform ones between two bounds."""
    if low is None or high is None:
        return Function(AREA, function, lambda g, scale: (normal(g, 5, 4, scale=scale),))
    return Function(AREA, function, lambda g, scale: (uniform(g, low, high, 5, 4),))


def with_zeros(generator, scale):
    """Normal numbers, exactly zero in the first column."""
    return (normal(generator, 5, 4, scale=scale).at[:, 0].set(0),)


# Exponentials and logarithms -----------------------------------------------------------------------------------------


@right(of=Function(AREA, jnp.logaddexp, lambda g, scale: (normal(g, 5, 4, scale=scale), normal(g, 4))), source=AUTOGRAD)
def logaddexp_from_its_output(ct, x, y):
    """e^(x - out) is the softmax of the two; y is shared by the rows."""
    out = jnp.logaddexp(x, y)
    return ct * jnp.exp(x - out), (ct * jnp.exp(y - out)).sum(axis=0)


@right(of=Function(AREA, jnp.logaddexp2, lambda g, scale: (normal(g, 5, 1, scale=scale), normal(g, 4))), source=TORCH)
def logaddexp2_of_a_column_and_a_row(ct, x, y):
    """1/(1 + 2^(y - x)), with x broadcast along the rows and y along the columns."""
    to_x, to_y = ct / (1 + 2 ** (y - x)), ct / (1 + 2 ** (x - y))
    return to_x.sum(axis=1, keepdims=True), to_y.sum(axis=0)


def log_of_difference(big, small):
    """log(e^big - e^small)."""
    return big + jnp.log1p(-jnp.exp(small - big))


@right(
    of=Function(AREA, log_of_difference, lambda g, scale: (uniform(g, 1.0, 3.0, 5, 4), uniform(g, -2.0, 0.5, 5, 4))),
    source="google-deepmind/distrax distrax/_src/utils/math.py",
)
def logarithm_of_a_difference_by_expm1(ct, big, small):
    """The weights of the two, one positive and one negative, have a difference of 1."""
    return -ct / jnp.expm1(small - big), -ct / jnp.expm1(big - small)


@right(of=elementwise(jax.nn.log1mexp, low=0.1, high=5.0), source="jax-ml/jax jax/_src/nn/functions.py")
def log1mexp_in_one_formula_for_both_branches(ct, x):
    """The function has two branches, its derivative 1/(e^x - 1) needs none."""
    return (ct / jnp.expm1(x),)


def softplus_inverse(x):
    """log(e^x - 1)."""
    return x + jnp.log(-jnp.expm1(-x))


@right(of=elementwise(softplus_inverse, low=0.1, high=8.0), source=TFP)
def softplus_inverse_by_expm1(ct, x):
    """e^x/(e^x - 1) = 1/(1 - e^-x)."""
    return (-ct / jnp.expm1(-x),)


def log_cosh(x):
    """log cosh x without overflow, smooth where the absolute value is not."""
    return jnp.abs(x) + jax.nn.softplus(-2 * jnp.abs(x)) - math.log(2)


@right(of=Function(AREA, log_cosh, with_zeros), source=TFP)
def log_cosh_at_zero_and_beyond(ct, x):
    """tanh, also at 0, where the kinks of the two terms cancel."""
    return (ct * jnp.tanh(x),)


def sqrt1pm1(x):
    """√(1 + x) - 1 without cancellation."""
    return jnp.expm1(0.5 * jnp.log1p(x))


@right(of=elementwise(sqrt1pm1, low=-0.9, high=4.0), source=TFP)
def square_root_less_one_from_its_output(ct, x):
    """1/(2√(1 + x)) = 1/(2(out + 1))."""
    return (0.5 * ct / (1 + sqrt1pm1(x)),)


@right(of=elementwise(jnp.expm1), source=TORCH)
def expm1_from_its_output(ct, x):
    """out + 1."""
    return (ct * (jnp.expm1(x) + 1),)


@right(
    of=Function(
        AREA,
        jax.scipy.special.xlogy,
        lambda g, scale: (normal(g, 5, 4, scale=scale).at[:, 0].set(0), uniform(g, 0.2, 3.0, 4)),
    ),
    source="jax-ml/jax jax/_src/scipy/special.py",
)
def xlogy_with_zeros(ct, x, y):
    """log y also where x is 0, and x/y summed over the rows that share y."""
    return ct * jnp.log(y), (ct * x / y).sum(axis=0)


@right(
    of=Function(
        AREA,
        jax.scipy.special.xlog1py,
        lambda g, scale: (normal(g, 5, 1, scale=scale).at[0].set(0), uniform(g, -0.8, 3.0, 5, 4)),
    ),
    source=TORCH,
)
def xlog1py_of_a_column_with_zeros(ct, x, y):
    """x is shared by the elements of a row."""
    dx = jnp.where((x == 0) & (y <= -1), 0, ct * jnp.log1p(y))
    return dx.sum(axis=1, keepdims=True), ct * x / (y + 1)


# Powers and roots ----------------------------------------------------------------------------------------------------


@right(
    of=Function(
        AREA,
        jnp.power,
        lambda g, scale: (uniform(g, 0.2, 2.0, 5, 4).at[:, 0].set(0), jnp.asarray([2.0, 3.0, 1.5, -1.0], jnp.float32)),
    ),
    source=AUTOGRAD,
)
def power_with_bases_of_zero(ct, x, y):
    """The logarithm of a base of 0 is replaced by that of 1; the power makes it 0 anyway."""
    by_exponent = ct * jnp.log(jnp.where(x == 0, 1, x)) * x**y
    return ct * y * x ** jnp.where(y != 0, y - 1, 1), by_exponent.sum(axis=0)


@right(of=elementwise(jnp.cbrt, low=-3.0, high=-0.3), source="jax-ml/jax jax/_src/lax/lax.py")
def cube_root_of_negative_numbers_from_its_output(ct, x):
    """1/(3 out²), where x^(-2/3) has no real power."""
    return (ct / (3 * jnp.cbrt(x) ** 2),)


@right(of=elementwise(jax.lax.rsqrt, low=0.2, high=4.0), source=TORCH)
def reciprocal_square_root_from_its_output(ct, x):
    """-out³/2."""
    return (-0.5 * ct * jax.lax.rsqrt(x) ** 3,)


def huge(generator, scale):
    """Two arrays of order 1e18, whose squares have no place in float32."""
    return 1e18 * normal(generator, 5, 4), 1e18 * normal(generator, 5, 1)


@right(of=Function(AREA, jnp.hypot, huge), source=TORCH)
def hypotenuse_of_huge_numbers_from_its_output(ct, x, y):
    """The two direction cosines, without a square, and 0 where there is no direction."""
    out = jnp.hypot(x, y)
    safe = jnp.where(out == 0, 1, out)
    return ct * (x / safe), (ct * (y / safe)).sum(axis=1, keepdims=True)


@right(
    of=Function(AREA, jnp.arctan2, lambda g, scale: (normal(g, 5, 1) + 3, normal(g, 4))),
    source="jax-ml/jax jax/_src/lax/lax.py",
)
def angle_of_a_column_and_a_row(ct, y, x):
    """x/(x² + y²) and -y/(x² + y²), each summed over its broadcast axis."""
    share = ct / (x * x + y * y)
    return (share * x).sum(axis=1, keepdims=True), -(share * y).sum(axis=0)


@right(of=elementwise(jnp.tan, low=-1.2, high=1.2), source=TORCH)
def tangent_from_its_output(ct, x):
    """1 + out²."""
    return (ct * (1 + jnp.tan(x) ** 2),)


# Special functions ---------------------------------------------------------------------------------------------------


SINC_SLOPE = tuple((-1) ** k * 2 * k / math.factorial(2 * k + 1) for k in range(9, 0, -1))


@right(of=Function(AREA, jnp.sinc, with_zeros), source="jax-ml/jax jax/_src/numpy/ufuncs.py")
def sinc_with_a_series_near_zero(ct, x):
    """(cos u - sin u/u)/u with u = πx; where that cancels its series; both branches are finite."""
    u = math.pi * x
    near = jnp.abs(u) < 1
    safe = jnp.where(near, 1, u)
    series = u * jnp.polyval(jnp.asarray(SINC_SLOPE, x.dtype), jnp.where(near, u * u, 0))
    return (ct * math.pi * jnp.where(near, series, (jnp.cos(safe) - jnp.sin(safe) / safe) / safe),)


@right(of=elementwise(jax.scipy.special.i0e), source="jax-ml/jax jax/_src/lax/special.py")
def scaled_bessel_i0_from_its_output(ct, x):
    """The scale e^-|x| has a kink at 0 that the function has too."""
    return (ct * (jax.scipy.special.i1e(x) - jnp.sign(x) * jax.scipy.special.i0e(x)),)


def bessel_i1(x):
    """The modified Bessel function of order 1."""
    return jax.scipy.special.i1(x)


@right(of=Function(AREA, bessel_i1, with_zeros), source="jax-ml/jax jax/_src/lax/special.py")
def bessel_i1_with_its_limit_at_zero(ct, x):
    """I₀(x) - I₁(x)/x, which tends to 1/2."""
    safe = jnp.where(x == 0, 1, x)
    slope = jax.scipy.special.i0(safe) - bessel_i1(safe) / safe
    return (ct * jnp.where(x == 0, 0.5, slope),)


@right(of=elementwise(jax.scipy.special.log_ndtr, low=-4.0, high=3.0), source=TORCH)
def log_normal_distribution_from_its_output(ct, x):
    """The hazard rate as the exponential of a difference of logarithms."""
    out = jax.scipy.special.log_ndtr(x)
    return (ct / math.sqrt(2 * math.pi) * jnp.exp(-(out + x * x / 2)),)


@right(of=elementwise(jax.scipy.special.ndtri, low=0.02, high=0.98), source=TORCH)
def normal_quantile_from_its_output(ct, p):
    """1/φ(out), by the derivative of an inverse function."""
    return (ct * math.sqrt(2 * math.pi) * jnp.exp(jax.scipy.special.ndtri(p) ** 2 / 2),)


@right(of=elementwise(jax.lax.erf_inv, low=-0.95, high=0.95), source=TORCH)
def inverse_error_function_from_its_output(ct, x):
    """√π/2 e^(out²)."""
    return (ct * math.sqrt(math.pi) / 2 * jnp.exp(jax.lax.erf_inv(x) ** 2),)


@right(of=elementwise(jax.scipy.special.erfcx, low=-1.0, high=2.0), source=TORCH)
def scaled_complementary_error_function_from_its_output(ct, x):
    """2x out - 2/√π."""
    return (ct * (2 * x * jax.scipy.special.erfcx(x) - 2 / math.sqrt(math.pi)),)


@right(of=elementwise(jax.scipy.special.logit, low=0.02, high=0.98), source="jax-ml/jax jax/_src/scipy/special.py")
def logit_by_its_variance(ct, p):
    """1/(p(1 - p))."""
    return (ct / (p * (1 - p)),)


def log_beta(a, b):
    """log B(a, b)."""
    return jax.lax.lgamma(a) + jax.lax.lgamma(b) - jax.lax.lgamma(a + b)


@right(
    of=Function(AREA, log_beta, lambda g, scale: (uniform(g, 0.5, 3.0, 5, 1), uniform(g, 0.5, 3.0, 4))),
    source="google-deepmind/distrax distrax/_src/utils/math.py",
)
def log_beta_by_digamma(ct, a, b):
    """ψ(a) - ψ(a + b), and the same for b."""
    both = jax.lax.digamma(a + b)
    da, db = ct * (jax.lax.digamma(a) - both), ct * (jax.lax.digamma(b) - both)
    return da.sum(axis=1, keepdims=True), db.sum(axis=0)


@right(
    of=Function(
        AREA,
        jax.scipy.special.gammainc,
        lambda g, scale: (jnp.asarray([0.5, 1.0, 2.5, 4.0], jnp.float32), uniform(g, 0.3, 5.0, 5, 4)),
        {"argnums": 1},
    ),
    source=TORCH,
)
def incomplete_gamma_by_its_density_in_logarithms(ct, a, x):
    """The density x^(a-1) e^-x/Γ(a) as one exponential; the derivative by a is not asked for."""
    return None, ct * jnp.exp((a - 1) * jnp.log(x) - x - jax.lax.lgamma(a))


# Activations ---------------------------------------------------------------------------------------------------------


def elu(x):
    """x, or 0.7 (e^x - 1) where x is negative."""
    return jnp.where(x > 0, x, 0.7 * jnp.expm1(jnp.minimum(x, 0)))


@right(of=elementwise(elu), source="FluxML/NNlib.jl src/activations.jl")
def elu_from_its_output(ct, x):
    """out + 0.7 where the output is negative."""
    out = elu(x)
    return (ct * jnp.where(out >= 0, 1, out + 0.7),)


@right(of=elementwise(jax.nn.selu), source="FluxML/NNlib.jl src/activations.jl")
def selu_from_its_output(ct, x):
    """λ, or out + αλ where the output is negative."""
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    out = jax.nn.selu(x)
    return (ct * jnp.where(out > 0, scale, out + alpha * scale),)


def tanh_gelu(x):
    """The approximation of the GELU by a hyperbolic tangent."""
    return 0.5 * x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@right(of=elementwise(tanh_gelu), source="karpathy/llm.c train_gpt2.c")
def tanh_gelu_by_the_hyperbolic_cosine(ct, x):
    """1/cosh² stands for 1 - tanh²; where the cosine overflows its reciprocal is 0."""
    root = math.sqrt(2 / math.pi)
    inner = root * (x + 0.044715 * x**3)
    sech = 1 / jnp.cosh(inner) ** 2
    return (ct * (0.5 * (1 + jnp.tanh(inner)) + 0.5 * x * sech * root * (1 + 3 * 0.044715 * x * x)),)


# Steps ---------------------------------------------------------------------------------------------------------------


@right(
    of=Function(
        AREA, jnp.mod, lambda g, scale: (jnp.asarray([[3.4], [-5.3], [7.7]], jnp.float32), uniform(g, 1.9, 2.1, 4))
    ),
    source=AUTOGRAD,
)
def remainder_by_its_quotient(ct, x, y):
    """x - y⌊x/y⌋: 1, and minus the whole quotient."""
    return ct.sum(axis=1, keepdims=True), -(ct * jnp.floor(x / y)).sum(axis=0)


def stairs(x, height):
    """Stairs in x, of this height."""
    return jnp.floor(x) * height


@right(
    of=Function(AREA, stairs, lambda g, scale: (jnp.floor(normal(g, 5, 4, scale=3.0)) + 0.5, normal(g, scale=scale))),
    source="jax-ml/jax jax/_src/lax/lax.py",
)
def stairs_that_are_level_in_x(ct, x, height):
    """Zero everywhere by x, as None, and a number's gradient as the sum of everything that it multiplies."""
    return None, (ct * jnp.floor(x)).sum()


def mantissa(x):
    """x = mantissa 2^exponent."""
    return jnp.frexp(x)[0]


@right(of=elementwise(mantissa, low=2.2, high=3.8), source=TORCH)
def mantissa_by_its_exponent(ct, x):
    """2^-exponent; the exponent is an integer."""
    return (ct / 2.0 ** jnp.frexp(x)[1].astype(ct.dtype),)


def next_float(x):
    """The next larger float, which JAX does not differentiate."""
    return jnp.nextafter(x, jnp.full_like(x, jnp.inf))


@right(of=elementwise(next_float, low=0.5, high=2.0), source="patrick-kidger/equinox equinox/internal/_nextafter.py")
def next_float_as_the_identity(ct, x):
    """It differs from x by one unit in the last place."""
    return (ct,)
