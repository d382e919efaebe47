"""Right rules at points that lie on kinks and ties, by every convention in use: any slope between both sides is right.

The first elements of every array lie on kinks, the others do not.
"""

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import normal, uniform
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
right = catalogue.right

AREA = "kinks"
AUTOGRAD = "HIPS/autograd autograd/numpy/numpy_vjps.py"
CHAIN_RULES = "JuliaDiff/ChainRules.jl src/rulesets/LinearAlgebra/norm.jl"
JAX_NN = "jax-ml/jax jax/_src/nn/functions.py"
TORCH = "pytorch/pytorch tools/autograd/derivatives.yaml"


def at(*kinks):
    """A matrix of normal numbers whose first columns are these."""

    def arguments(generator, scale):
        x = normal(generator, 5, 2 + len(kinks), scale=scale)
        return (x.at[:, : len(kinks)].set(jnp.asarray(kinks, x.dtype)),)

    return arguments


# Rectifiers and bounds -----------------------------------------------------------------------------------------------


def rectified(x):
    """max(x, 0)."""
    return jnp.maximum(x, 0)


RECTIFIED = Function(AREA, rectified, at(0.0))


@right(of=RECTIFIED, source=JAX_NN)
def rectifier_flat_at_zero_on_kinks(ct, x):
    """0 at 0."""
    return (jax.lax.select(x > 0, ct, jnp.zeros_like(ct)),)


@right(of=RECTIFIED, source=TORCH)
def lower_bound_that_lets_its_equals_through_on_kinks(ct, x):
    """1 at 0."""
    return (jnp.where(x >= 0, ct, 0),)


@right(of=RECTIFIED, source="jax-ml/jax jax/_src/lax/lax.py")
def maximum_with_a_constant_that_shares_on_kinks(ct, x):
    """1/2 at 0, half for the constant."""
    return (ct * jnp.where(x == 0, 0.5, (x > 0).astype(ct.dtype)),)


def rectified_to_6(x):
    """x kept between 0 and 6."""
    return jnp.minimum(jnp.maximum(x, 0), 6)


@right(of=Function(AREA, rectified_to_6, at(0.0, 6.0)), source=JAX_NN)
def relu6_flat_at_both_ends_on_kinks(ct, x):
    """Neither end belongs to the slope."""
    return (jnp.where((x > 0) & (x < 6), ct, 0),)


def hard_sigmoid(x):
    """(x + 3)/6 kept between 0 and 1."""
    return rectified_to_6(x + 3) / 6


@right(of=Function(AREA, hard_sigmoid, at(-3.0, 3.0)), source=JAX_NN)
def hard_sigmoid_flat_at_both_ends_on_kinks(ct, x):
    """1/6 inside."""
    return (jnp.where(jnp.abs(x) < 3, ct / 6, 0),)


def clamped(x):
    """x kept between -1 and 1."""
    return jnp.clip(x, -1, 1)


@right(of=Function(AREA, clamped, at(-1.0, 1.0)), source=TORCH)
def clamp_that_includes_its_bounds_on_kinks(ct, x):
    """Both ends belong to the slope."""
    return (jnp.where((x >= -1) & (x <= 1), ct, 0),)


@right(of=Function(AREA, clamped, at(-1.0, 1.0)), source=AUTOGRAD)
def clip_judged_by_its_output_on_kinks(ct, x):
    """Nothing comes back where the output is a bound."""
    out = clamped(x)
    return (ct * ((out != -1) & (out != 1)),)


def leaky(x, slope):
    """x, or a slope times x where x is negative; all share the slope."""
    return jnp.where(x >= 0, x, slope * x)


@right(
    of=Function(AREA, leaky, lambda g, scale: (*at(0.0)(g, scale), uniform(g, 0.1, 0.4))),
    source=TORCH,
)
def leaky_rectifier_with_a_learned_slope_on_kinks(ct, x, slope):
    """The learned slope at 0; the parameter's gradient is smooth, and a sum over all."""
    return jnp.where(x > 0, ct, slope * ct), (ct * jnp.minimum(x, 0)).sum()


def elu_with_a_kink(x):
    """x, or (e^x - 1)/2 where x is negative."""
    return jnp.where(x >= 0, x, 0.5 * jnp.expm1(jnp.minimum(x, 0)))


@right(of=Function(AREA, elu_with_a_kink, at(0.0)), source="FluxML/NNlib.jl src/activations.jl")
def elu_from_its_output_on_kinks(ct, x):
    """out + 1/2, and 1 at 0."""
    out = elu_with_a_kink(x)
    return (ct * jnp.where(out >= 0, 1, out + 0.5),)


def soft_threshold(x, threshold):
    """sign(x) max(|x| - threshold, 0), with one threshold for all."""
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold, 0)


def at_the_threshold(generator, scale):
    """x at both ends of the dead zone, and the threshold."""
    x = normal(generator, 5, 4, scale=scale)
    return x.at[:, 0].set(0.5).at[:, 1].set(-0.5), jnp.full((), 0.5, x.dtype)


@right(
    of=Function(AREA, soft_threshold, at_the_threshold),
    source="tensorflow/probability tensorflow_probability/python/math/generic.py",
)
def soft_threshold_with_its_ends_in_the_dead_zone_on_kinks(ct, x, threshold):
    """Nothing comes back from the dead zone; outside, the threshold takes away from either sign."""
    outside = jnp.abs(x) > threshold
    return jnp.where(outside, ct, 0), -jnp.where(outside, ct * jnp.sign(x), 0).sum()


# Absolute values and norms -------------------------------------------------------------------------------------------


@right(of=Function(AREA, jnp.abs, at(0.0)), source=TORCH)
def absolute_value_by_its_sign_on_kinks(ct, x):
    """0 at 0."""
    return (ct * jnp.sign(x),)


@right(of=Function(AREA, jnp.abs, at(0.0)), source=AUTOGRAD)
def absolute_value_by_a_guarded_quotient_on_kinks(ct, x):
    """x/|x|, with |x| replaced by 1 where it is 0."""
    return (ct * x / jnp.where(x == 0, 1, jnp.abs(x)),)


def with_a_zero_row(generator, scale):
    """Rows, the first two of which are zero."""
    return (normal(generator, 5, 4, scale=scale).at[:2].set(0),)


def norms(x):
    """The Euclidean norm of each row; one of zeros is replaced for the square root."""
    zero = (x == 0).all(axis=-1)
    return jnp.where(zero, 0, jnp.sqrt((jnp.where(zero[:, None], 1, x) ** 2).sum(axis=-1)))


@right(of=Function(AREA, norms, with_a_zero_row), source="google-deepmind/mujoco mjx/mujoco/mjx/_src/math.py")
def norm_of_a_replaced_row_on_kinks(ct, x):
    """A row of zeros is replaced by ones, and gets 0."""
    zero = (x == 0).all(axis=-1, keepdims=True)
    safe = jnp.where(zero, 1, x)
    return (jnp.where(zero, 0, ct[:, None] * safe / norms(safe)[:, None]),)


@right(of=Function(AREA, norms, with_a_zero_row), source=CHAIN_RULES)
def norm_by_a_pseudoinverse_on_kinks(ct, x):
    """x times ct/|x|, where 1/0 stands for 0."""
    length = norms(x)
    share = jnp.where(length > 0, ct / jnp.where(length > 0, length, 1), 0)
    return (x * share[:, None],)


def largest_magnitude(x):
    """The largest absolute value of each row."""
    return jnp.abs(x).max(axis=-1)


@right(
    of=Function(
        AREA,
        largest_magnitude,
        lambda g, scale: (normal(g, 5, 4).at[:3, 1:3].set(jnp.asarray([4.0, -4.0], jnp.float32)),),
    ),
    source=CHAIN_RULES,
)
def maximum_norm_to_the_last_of_equals_on_kinks(ct, x):
    """The sign of the last element that has the largest magnitude."""
    last = x.shape[-1] - 1 - jnp.abs(x)[:, ::-1].argmax(axis=-1)
    return (ct[:, None] * jnp.sign(x) * jax.nn.one_hot(last, x.shape[-1], dtype=ct.dtype),)


def neighbours_apart(x):
    """|x_(i+1) - x_i| of the neighbours in each row."""
    return jnp.abs(jnp.diff(x, axis=-1))


@right(
    of=Function(AREA, neighbours_apart, lambda g, scale: (jnp.repeat(normal(g, 5, 3, scale=scale), 2, axis=-1),)),
    source=AUTOGRAD,
)
def total_variation_flat_at_equal_neighbours_on_kinks(ct, x):
    """The transpose of a difference: what goes in at one neighbour comes out at the other."""
    flow = ct * jnp.sign(jnp.diff(x, axis=-1))
    return (jnp.concatenate([-flow[:, :1], -jnp.diff(flow, axis=-1), flow[:, -1:]], axis=-1),)


# Ties ----------------------------------------------------------------------------------------------------------------


def equal_in_front(generator, scale):
    """Two matrices, equal in their first two columns."""
    x, y = normal(generator, 5, 4, scale=scale), normal(generator, 5, 4, scale=scale)
    return x, y.at[:, :2].set(x[:, :2])


@right(of=Function(AREA, jnp.maximum, equal_in_front), source=AUTOGRAD)
def maximum_by_balanced_comparisons_on_kinks(ct, x, y):
    """(x = out)/(1 + (x = y)): halves for equals."""
    out, both = jnp.maximum(x, y), 1 + (x == y)
    return ct * (x == out) / both, ct * (y == out) / both


@right(of=Function(AREA, jnp.maximum, equal_in_front), source=TORCH)
def lower_bounds_by_an_array_on_kinks(ct, x, y):
    """Where both are equal x counts as free, and gets all."""
    return jnp.where(x >= y, ct, 0), jnp.where(x < y, ct, 0)


def three_largest(generator, scale):
    """Rows of five with two or three largest elements."""
    x = normal(generator, 4, 5, scale=scale)
    return (x.at[:, 1].set(5).at[:, 3].set(5).at[1:3, 4].set(5),)


def largest(x):
    """The largest of each row."""
    return x.max(axis=-1)


@right(of=Function(AREA, largest, three_largest), source=AUTOGRAD)
def largest_shared_by_all_that_are_equal_on_kinks(ct, x):
    """Equal shares."""
    chosen = x == largest(x)[:, None]
    return (ct[:, None] * chosen / chosen.sum(axis=-1, keepdims=True),)


@right(of=Function(AREA, largest, three_largest), source=TORCH)
def largest_to_the_index_that_was_saved_on_kinks(ct, x):
    """The first of equals gets everything, by a scatter."""
    return (jnp.zeros_like(x).at[jnp.arange(len(x)), x.argmax(axis=-1)].set(ct),)


def tied_in_the_middle(generator, scale):
    """Rows of five whose median is there twice; each of three would have no slope to either side."""
    x = jnp.asarray([[0, 1, 1, 2, 3], [3, 0, 1, -1, 1], [2, 1, 3, 0, 2]], jnp.float32)
    return (x + normal(generator, 3, 1, scale=scale),)


def medians(x):
    """The median of each row."""
    return jnp.sort(x, axis=-1)[:, x.shape[-1] // 2]


@right(of=Function(AREA, medians, tied_in_the_middle), source=TORCH)
def median_shared_by_all_that_are_equal_on_kinks(ct, x):
    """Equal shares for all that equal the output."""
    chosen = x == medians(x)[:, None]
    return (ct[:, None] * chosen / chosen.sum(axis=-1, keepdims=True),)


def in_order(x):
    """The elements in increasing order."""
    return jnp.sort(x)


@right(
    of=Function(AREA, in_order, lambda g, scale: (jnp.asarray([2.0, -1.0, 2.0, 0.5, -3.0], jnp.float32),)),
    source="JuliaDiff/ChainRules.jl src/rulesets/Base/sort.jl",
)
def sorting_by_a_stable_permutation_on_kinks(ct, x):
    """Of two equals the first goes to the first place."""
    return (jnp.zeros_like(x).at[jnp.argsort(x, stable=True)].add(ct),)


def running_maximum(x):
    """The largest so far, in each row."""
    return jax.lax.cummax(x, axis=1)


@right(
    of=Function(
        AREA,
        running_maximum,
        lambda g, scale: (jnp.asarray([[1.0, 3.0, 0.5, 3.0], [2.0, 2.0, 5.0, 1.0]], jnp.float32),),
    ),
    source=TORCH,
)
def running_maximum_to_the_last_of_equals_on_kinks(ct, x):
    """The index of the last element that is the largest so far collects the cotangents that follow."""
    position = jnp.arange(x.shape[1])
    holder = jax.lax.cummax(jnp.where(x >= running_maximum(x), position, 0), axis=1)
    return ((ct[:, :, None] * (holder[:, :, None] == position)).sum(axis=1),)


def largest_in_segments(x, segments):
    """The largest of each of three segments."""
    return jax.ops.segment_max(x, segments, num_segments=3)


@right(
    of=Function(
        AREA,
        largest_in_segments,
        lambda g, scale: (
            jnp.asarray([2.0, 1.0, 2.0, -0.3, 4.0, 4.0, 4.0], jnp.float32),
            jnp.asarray([0, 0, 0, 1, 2, 2, 2], jnp.int32),
        ),
    ),
    source="google-deepmind/jraph jraph/_src/utils.py",
)
def largest_in_segments_shared_by_equals_on_kinks(ct, x, segments):
    """Each segment's cotangent over the number of its winners."""
    winners = (x == largest_in_segments(x, segments)[segments]).astype(ct.dtype)
    count = jax.ops.segment_sum(winners, segments, num_segments=3)
    return winners * (ct / count)[segments], None


# Losses and interpolation --------------------------------------------------------------------------------------------


def hinge(scores, signs):
    """max(0, 1 - score · sign)."""
    return jnp.maximum(0, 1 - scores * signs)


def at_the_margin(generator, scale):
    """Scores of which the first column lies exactly on the margin; the signs are integers."""
    signs = jnp.asarray([1, -1, 1, 1, -1], jnp.int32)[:, None]
    scores = normal(generator, 5, 3, scale=scale)
    return scores.at[:, :1].set(signs.astype(scores.dtype)), signs


HINGE = Function(AREA, hinge, at_the_margin)
HINGES = "google-deepmind/optax optax/losses/_classification.py"


@right(of=HINGE, source=HINGES)
def hinge_that_is_satisfied_at_the_margin_on_kinks(ct, scores, signs):
    """No slope where the margin is just kept."""
    return jnp.where(scores * signs < 1, -signs * ct, 0), None


@right(of=HINGE, source=HINGES)
def hinge_that_shares_at_the_margin_on_kinks(ct, scores, signs):
    """Half of the slope where the margin is just kept, as of a balanced maximum."""
    slope = jnp.heaviside(1 - scores * signs, jnp.full((), 0.5, scores.dtype))
    return -signs * ct * slope, None


KNOTS = (0.0, 1.0, 2.5, 4.0)


def interpolated(x, heights):
    """Linear interpolation between four heights, constant beyond."""
    return jnp.interp(x, jnp.asarray(KNOTS, x.dtype), heights)


@right(
    of=Function(
        AREA,
        interpolated,
        lambda g, scale: (jnp.asarray([0.0, 1.0, 2.5, 4.0, 0.3, 5.0], jnp.float32), normal(g, 4, scale=scale)),
    ),
    source="jax-ml/jax jax/_src/numpy/lax_numpy.py",
)
def interpolation_with_the_slope_on_the_right_on_kinks(ct, x, heights):
    """At a knot the piece that begins there, at the last one the piece that ends; the heights' weights are smooth."""
    knots = jnp.asarray(KNOTS, x.dtype)
    i = jnp.clip(jnp.searchsorted(knots, x, side="right"), 1, 3)
    width = knots[i] - knots[i - 1]
    inside = (x >= knots[0]) & (x <= knots[-1])
    share = jnp.clip((x - knots[i - 1]) / width, 0, 1)
    dx = jnp.where(inside, ct * (heights[i] - heights[i - 1]) / width, 0)
    return dx, jnp.zeros_like(heights).at[i].add(ct * share).at[i - 1].add(ct * (1 - share))
