"""Right rules of gathers, scatters, segments, scans, pooling and interpolation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.specimens.gradients.derivative import Function
from experiments.specimens.gradients.subjects import labels, normal, uniform, weights
from experiments.specimens.specimen import Catalogue

catalogue = Catalogue()
right = catalogue.right

AREA = "indexing"
AUTOGRAD = "HIPS/autograd autograd/numpy/numpy_vjps.py"
CHAIN_RULES = "JuliaDiff/ChainRules.jl src/rulesets/Base/mapreduce.jl"
JRAPH = "google-deepmind/jraph jraph/_src/utils.py"
TORCH = "pytorch/pytorch tools/autograd/derivatives.yaml"


def integers(*values):
    """Integers of 32 bits."""
    return jnp.asarray(values, jnp.int32)


# Gathers and scatters ------------------------------------------------------------------------------------------------


def rows_or_zeros(table, index):
    """The rows of a table, and zeros where there is none."""
    return table.at[index].get(mode="fill", fill_value=0)


@right(
    of=Function(AREA, rows_or_zeros, lambda g, scale: (weights(g, scale, 4, 3), integers(2, 0, 9, 2, -1, 2))),
    source="jax-ml/jax jax/_src/lax/slicing.py",
)
def gather_with_repeats_and_indices_beyond_the_end(ct, table, index):
    """What was filled in is dropped, repeats add up, and -1 is the last row."""
    return jnp.zeros_like(table).at[index].add(ct, mode="drop"), None


def overwritten(x, index, rows):
    """x with some rows replaced."""
    return x.at[index].set(rows)


@right(
    of=Function(AREA, overwritten, lambda g, scale: (normal(g, 5, 3), integers(4, 1), normal(g, 2, 3, scale=scale))),
    source="jax-ml/jax jax/_src/lax/slicing.py",
)
def scatter_that_overwrites(ct, x, index, rows):
    """What was replaced gets zero, the replacement gets the rows in its place."""
    return ct.at[index].set(0), None, ct[index]


def added(x, index, rows, alpha):
    """x with a multiple of some rows added, which may fall on the same place."""
    return x.at[index].add(alpha * rows)


@right(
    of=Function(
        AREA,
        added,
        lambda g, scale: (normal(g, 4, 3), integers(3, 0, 3, 3, 1), normal(g, 5, 3, scale=scale), uniform(g, 0.5, 2.0)),
    ),
    source=TORCH,
)
def rows_added_to_the_same_place(ct, x, index, rows, alpha):
    """The cotangent passes to x, and is gathered for the rows; a number's gradient is an inner product."""
    picked = ct[index]
    return ct, None, alpha * picked, (picked * rows).sum()


def slice_from(x, start):
    """Three elements from a start that is moved back where they would leave x."""
    return jax.lax.dynamic_slice(x, (start,), (3,))


@right(
    of=Function(AREA, slice_from, lambda g, scale: (normal(g, 7, scale=scale), jnp.asarray(6, jnp.int32))),
    source="jax-ml/jax jax/_src/lax/slicing.py",
)
def slice_whose_start_is_clamped(ct, x, start):
    """The start is moved back in the same way where the cotangent is written."""
    return jax.lax.dynamic_update_slice(jnp.zeros_like(x), ct, (start,)), None


def tokens_and_positions(words, positions, tokens):
    """Embeddings of the words of each sentence, and of their places."""
    return words[tokens] + positions[: tokens.shape[1]]


@right(
    of=Function(
        AREA,
        tokens_and_positions,
        lambda g, scale: (weights(g, scale, 6, 3), weights(g, scale, 5, 3), labels(g, 6, 2, 4)),
    ),
    source="karpathy/llm.c train_gpt2.c",
)
def embeddings_of_tokens_and_positions(ct, words, positions, tokens):
    """A scatter for the words, a sum over the sentences for the places, of which the last is not used."""
    d_positions = jnp.zeros_like(positions).at[: tokens.shape[1]].set(ct.sum(axis=0))
    return jnp.zeros_like(words).at[tokens].add(ct), d_positions, None


PADDING = 0


def padded_embedding(table, tokens):
    """Embeddings, and zeros for the padding."""
    return jnp.where((tokens != PADDING)[..., None], table[tokens], 0)


@right(
    of=Function(AREA, padded_embedding, lambda g, scale: (weights(g, scale, 5, 3), integers(0, 3, 1, 0, 3, 0))),
    source=TORCH,
)
def embedding_whose_padding_has_no_gradient(ct, table, tokens):
    """The row of the padding is cleared in the end, which is right as it is never read."""
    return jnp.zeros_like(table).at[tokens].add(ct).at[PADDING].set(0), None


def k_largest(x):
    """The two largest of each row, in order."""
    return jax.lax.top_k(x, 2)[0]


@right(of=Function(AREA, k_largest, lambda g, scale: (normal(g, 5, 4, scale=scale),)), source=TORCH)
def largest_two_by_their_indices(ct, x):
    """Each cotangent goes to the place that was chosen."""
    _, index = jax.lax.top_k(x, 2)
    return ((jax.nn.one_hot(index, x.shape[-1], dtype=ct.dtype) * ct[..., None]).sum(axis=-2),)


@right(
    of=Function(AREA, jnp.sort, lambda g, scale: (normal(g, 5, 4, scale=scale),)),
    source="JuliaDiff/ChainRules.jl src/rulesets/Base/sort.jl",
)
def sorting_by_the_inverse_permutation(ct, x):
    """A gather by the ranks, which are the sorting of the sorting."""
    return (jnp.take_along_axis(ct, jnp.argsort(jnp.argsort(x, axis=-1), axis=-1), axis=-1),)


# Segments and graphs -------------------------------------------------------------------------------------------------

SEGMENTS = integers(0, 2, 0, 0, 2, 3)


def segment_softmax(logits, segments):
    """The softmax within each of four segments, one of which is empty."""
    top = jax.ops.segment_max(logits, segments, num_segments=4)
    e = jnp.exp(logits - top[segments])
    return e / jax.ops.segment_sum(e, segments, num_segments=4)[segments]


@right(
    of=Function(AREA, segment_softmax, lambda g, scale: (normal(g, 6, scale=scale), SEGMENTS)),
    source=JRAPH,
)
def softmax_within_segments(ct, logits, segments):
    """From the output, with a sum within each segment; the maximum has no part in it."""
    p = segment_softmax(logits, segments)
    return p * (ct - jax.ops.segment_sum(p * ct, segments, num_segments=4)[segments]), None


def segment_mean(x, segments):
    """The mean of each of four segments, zero for the empty one."""
    count = jax.ops.segment_sum(jnp.ones(len(x), x.dtype), segments, num_segments=4)
    return jax.ops.segment_sum(x, segments, num_segments=4) / jnp.maximum(count, 1)[:, None]


@right(of=Function(AREA, segment_mean, lambda g, scale: (normal(g, 6, 3, scale=scale), SEGMENTS)), source=JRAPH)
def means_of_segments_of_which_one_is_empty(ct, x, segments):
    """Each element gets its segment's cotangent over the count."""
    count = jnp.bincount(segments, length=4).astype(ct.dtype)
    return (ct / jnp.maximum(count, 1)[:, None])[segments], None


class Graph(NamedTuple):
    """Nodes with features, edges without, and the nodes that the edges join."""

    nodes: Any
    edges: Any
    senders: Any
    receivers: Any


def messages(graph, parameters):
    """Each node with the sum of its senders' images, of which the last edge is padding; the bias may be missing."""
    images = jnp.tanh(graph.nodes @ parameters["W"].T)
    sent = images[graph.senders] * jnp.where(jnp.arange(len(graph.senders)) < 5, 1, 0)[:, None].astype(images.dtype)
    return graph._replace(nodes=graph.nodes + jax.ops.segment_sum(sent, graph.receivers, num_segments=4))


def graph_and_parameters(generator, scale):
    """A graph of four nodes and six edges in integers, no features of edges, and no bias."""
    graph = Graph(normal(generator, 4, 3), None, integers(0, 1, 1, 3, 2, 3), integers(1, 0, 3, 3, 1, 3))
    return graph, {"W": weights(generator, scale, 3, 3), "b": None}


@right(
    of=Function(AREA, lambda graph, parameters: messages(graph, parameters).nodes, graph_and_parameters), source=JRAPH
)
def messages_along_edges_of_a_named_tuple(ct, graph, parameters):
    """Gathers and scatters change places; the integers and what is missing have None."""
    images = jnp.tanh(graph.nodes @ parameters["W"].T)
    edge = jnp.where((jnp.arange(6) < 5)[:, None], ct[graph.receivers], 0)
    delta = jax.ops.segment_sum(edge, graph.senders, num_segments=4) * (1 - images**2)
    return Graph(ct + delta @ parameters["W"], None, None, None), {"W": delta.T @ graph.nodes, "b": None}


# Products, sums and scans --------------------------------------------------------------------------------------------


def with_one_and_two_zeros(generator, scale):
    """Rows without a zero, with one, and with two."""
    x = normal(generator, 4, 5, scale=scale)
    return (x.at[1, 2].set(0).at[2, jnp.asarray([0, 3])].set(0),)


@right(of=Function(AREA, lambda x: x.prod(axis=-1), with_one_and_two_zeros), source=CHAIN_RULES)
def product_with_zeros_counted(ct, x):
    """out/x without a zero; the product of the rest for a single zero; nothing for two."""
    zero = x == 0
    rest, count = jnp.where(zero, 1, x), zero.sum(axis=-1, keepdims=True)
    others = rest.prod(axis=-1, keepdims=True) / rest
    return (ct[:, None] * jnp.where(count == 0, others, jnp.where((count == 1) & zero, others, 0)),)


@right(of=Function(AREA, lambda x: x.prod(axis=-1), with_one_and_two_zeros), source=TORCH)
def product_by_products_of_both_sides(ct, x):
    """The products of what comes before and after an element, without a division."""
    one = jnp.ones_like(x[:, :1])
    before = jnp.concatenate([one, jnp.cumprod(x[:, :-1], axis=1)], axis=1)
    after = jnp.concatenate([jnp.cumprod(x[:, :0:-1], axis=1)[:, ::-1], one], axis=1)
    return (ct[:, None] * before * after,)


@right(of=Function(AREA, lambda x: jnp.cumprod(x, axis=1), with_one_and_two_zeros), source=CHAIN_RULES)
def running_product_with_a_zero(ct, x):
    """What came before times s_i = ct_i + x_(i+1) s_(i+1), a sum from the end that divides by nothing."""
    before = jnp.concatenate([jnp.ones_like(x[:, :1]), jnp.cumprod(x, axis=1)[:, :-1]], axis=1)
    following = jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], axis=1)

    def step(s, given):
        s = given[0] + given[1] * s
        return s, s

    _, s = jax.lax.scan(step, jnp.zeros_like(x[:, 0]), (ct.T, following.T), reverse=True)
    return (before * s.T,)


# The rule works in logarithms, and loses digits to them where x is of the order of 10,000: that is waived.
LOGARITHMIC = Function(
    AREA,
    lambda x: jax.lax.cumlogsumexp(x, axis=1),
    lambda g, scale: (normal(g, 4, 5, scale=scale),),
    {"allow": ("precision",)},
)


@right(of=LOGARITHMIC, source=TORCH)
def running_logsumexp_by_the_signs_of_the_cotangent(ct, x):
    """Positive and negative cotangents are summed apart, in logarithms, from the end."""
    out = jax.lax.cumlogsumexp(x, axis=1)
    log_ct = jnp.log(jnp.where(ct == 0, 1, jnp.abs(ct)))

    def part(chosen):
        # What is not chosen is so small that it does not count, and finite.
        return jnp.exp(x + jax.lax.cumlogsumexp(jnp.where(chosen, log_ct - out, -1e30), axis=1, reverse=True))

    return (part(ct > 0) - part(ct < 0),)


@right(
    of=Function(AREA, lambda x: jnp.cumsum(x, axis=1), lambda g, scale: (normal(g, 4, 5, scale=scale),)),
    source=AUTOGRAD,
)
def running_sum_from_the_end(ct, x):
    """The running sum of the cotangent in reverse."""
    return (jnp.cumsum(ct[:, ::-1], axis=1)[:, ::-1],)


@right(
    of=Function(AREA, lambda x: jnp.diff(x, n=2, axis=-1), lambda g, scale: (normal(g, 4, 6, scale=scale),)),
    source=AUTOGRAD,
)
def second_differences_by_differences(ct, x):
    """Twice the negative difference, with zeros at both ends."""
    return (jnp.diff(jnp.pad(ct, ((0, 0), (2, 2))), n=2, axis=-1),)


@right(
    of=Function(AREA, lambda a, b: jnp.linspace(a, b, 5), lambda g, scale: (normal(g, 3, scale=scale), normal(g, 3))),
    source=AUTOGRAD,
)
def even_spacing_by_its_ends(ct, a, b):
    """Weights from 1 to 0 for the start, and from 0 to 1 for the stop."""
    weight = jnp.linspace(1, 0, 5, dtype=ct.dtype)
    return weight @ ct, weight[::-1] @ ct


def repeated(x):
    """Each column three times."""
    return jnp.repeat(x, 3, axis=1)


@right(of=Function(AREA, repeated, lambda g, scale: (normal(g, 4, 1, scale=scale),)), source=AUTOGRAD)
def repeats_of_a_single_column(ct, x):
    """The sum over the repeats, with the axis of size 1 kept."""
    return (ct.reshape(len(ct), -1, 3).sum(axis=-1),)


def compose(first, second):
    """Two steps x → a x + b in one."""
    return second[0] * first[0], second[0] * first[1] + second[1]


def recurrence(a, b):
    """x_t = a_t x_(t-1) + b_t by a parallel scan."""
    return jax.lax.associative_scan(compose, (a, b))[1]


@right(
    of=Function(AREA, recurrence, lambda g, scale: (uniform(g, -0.9, 0.9, 6, 3), normal(g, 6, 3, scale=scale))),
    source="lindermanlab/S5 s5/ssm.py",
)
def recurrence_by_the_reverse_parallel_scan(ct, a, b):
    """The same scan from the end, with the next step's factors, and the states shifted by one for the factors."""
    zero = jnp.zeros_like(a[:1])
    after = jnp.concatenate([a[1:], zero])
    db = jax.lax.associative_scan(compose, (after, ct), reverse=True)[1]
    return db * jnp.concatenate([zero, recurrence(a, b)[:-1]]), db


# Windows -------------------------------------------------------------------------------------------------------------

STRIDE, WIDTH = 2, 3


def patches(x):
    """The index of each element of each window of a padded signal."""
    starts = STRIDE * jnp.arange((x.shape[-1] + 2 - WIDTH) // STRIDE + 1)
    return starts[:, None] + jnp.arange(WIDTH)


def convolved(x, kernel):
    """A convolution with stride 2 and padding 1, of the window's products: x is (batch, channels, length)."""
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1)))
    return jnp.einsum("bcpw,ocw->bop", padded[..., patches(x)], kernel)


@right(
    of=Function(AREA, convolved, lambda g, scale: (normal(g, 2, 4, 7), weights(g, scale, 5, 4, WIDTH))), source=TORCH
)
def convolution_by_overlapping_patches(ct, x, kernel):
    """Windows that overlap add up where they do, and the padding is cut off."""
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1)))
    d_windows = jnp.einsum("bop,ocw->bcpw", ct, kernel)
    dx = jnp.zeros_like(padded).at[..., patches(x)].add(d_windows)[..., 1:-1]
    return dx, jnp.einsum("bop,bcpw->ocw", ct, padded[..., patches(x)])


def mean_pool(x):
    """The mean over windows of three with stride 1, of the elements that exist."""
    window, stride, padding = (1, 3), (1, 1), ((0, 0), (1, 1))
    total = jax.lax.reduce_window(x, jnp.zeros((), x.dtype), jax.lax.add, window, stride, padding)
    ones = jnp.ones((1, x.shape[1]), x.dtype)
    return total / jax.lax.reduce_window(ones, jnp.zeros((), x.dtype), jax.lax.add, window, stride, padding)


@right(
    of=Function(AREA, mean_pool, lambda g, scale: (normal(g, 3, 5, scale=scale),)),
    source="google-deepmind/dm-haiku haiku/_src/pool.py",
)
def mean_pooling_over_what_exists(ct, x):
    """The same windows over ct divided by each window's count."""
    share = jnp.pad(ct / jnp.asarray([2, 3, 3, 3, 2], ct.dtype), ((0, 0), (1, 1)))
    return (share[:, :-2] + share[:, 1:-1] + share[:, 2:],)


def reflected(x):
    """Two more elements at each end, by reflection."""
    return jnp.pad(x, ((0, 0), (2, 2)), mode="reflect")


@right(of=Function(AREA, reflected, lambda g, scale: (normal(g, 3, 5, scale=scale),)), source=TORCH)
def reflections_folded_back(ct, x):
    """The ends are folded back onto what they mirror; the outermost elements have no mirror image."""
    inner = ct[:, 2:-2]
    return (inner.at[:, 1:3].add(ct[:, 1::-1]).at[:, -3:-1].add(ct[:, :-3:-1]),)


# Interpolation -------------------------------------------------------------------------------------------------------


def interpolate(x, knots, heights):
    """Linear interpolation, constant beyond the knots."""
    return jnp.interp(x, knots, heights)


@right(
    of=Function(
        AREA,
        interpolate,
        lambda g, scale: (
            jnp.asarray([0.2, 3.7, -1.0, 2.4, 0.6, 5.0], jnp.float32),
            jnp.asarray([0.0, 1.1, 1.9, 4.2], jnp.float32),
            normal(g, 4, scale=scale),
        ),
    ),
    source="jax-ml/jax jax/_src/numpy/lax_numpy.py",
)
def interpolation_by_its_knots_too(ct, x, knots, heights):
    """A knot takes minus the piece's slope times its weight; beyond the ends only a height is left."""
    i = jnp.clip(jnp.searchsorted(knots, x, side="right"), 1, len(knots) - 1)
    slope = (heights[i] - heights[i - 1]) / (knots[i] - knots[i - 1])
    inside = (x >= knots[0]) & (x <= knots[-1])
    share = jnp.clip((x - knots[i - 1]) / (knots[i] - knots[i - 1]), 0, 1)
    dx = jnp.where(inside, ct * slope, 0)
    d_knots = jnp.zeros_like(knots).at[i].add(-dx * share).at[i - 1].add(-dx * (1 - share))
    return dx, d_knots, jnp.zeros_like(heights).at[i].add(ct * share).at[i - 1].add(ct * (1 - share))


def sampled(image, places):
    """Bilinear samples of an image at places (row, column), with zeros around it."""
    corner = jnp.floor(places)
    total = jnp.zeros(len(places), image.dtype)
    for step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        at = corner + jnp.asarray(step, places.dtype)
        weight = jnp.prod(1 - jnp.abs(places - at), axis=-1)
        row, column = at.astype(jnp.int32).T
        within = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
        total = total + jnp.where(within, image[row, column], 0) * weight
    return total


@right(
    of=Function(
        AREA,
        sampled,
        lambda g, scale: (
            normal(g, 4, 5, scale=scale),
            jnp.asarray([[0.3, 2.6], [-0.4, 1.2], [2.7, 4.3], [0.6, 2.1], [3.5, -0.7], [9.2, 1.5]], jnp.float32),
        ),
    ),
    source=TORCH,
)
def bilinear_samples_by_their_corners(ct, image, places):
    """Each corner gets its weight; a place moves the weights; corners outside have no part."""
    low = jnp.floor(places)
    row, column = low.astype(jnp.int32).T
    up, along = (places - low).T
    padded = jnp.pad(image, 1)
    r, c = jnp.clip(row + 1, 0, image.shape[0]), jnp.clip(column + 1, 0, image.shape[1])
    far = (row < -1) | (row >= image.shape[0]) | (column < -1) | (column >= image.shape[1])
    ct = jnp.where(far, 0, ct)
    a, b, d, e = padded[r, c], padded[r, c + 1], padded[r + 1, c], padded[r + 1, c + 1]
    spread = jnp.zeros_like(padded).at[r, c].add(ct * (1 - up) * (1 - along)).at[r, c + 1].add(ct * (1 - up) * along)
    spread = spread.at[r + 1, c].add(ct * up * (1 - along)).at[r + 1, c + 1].add(ct * up * along)
    by_row = ct * ((d - a) * (1 - along) + (e - b) * along)
    by_column = ct * ((b - a) * (1 - up) + (e - d) * up)
    return spread[1:-1, 1:-1], jnp.stack([by_row, by_column], axis=-1)
