"""S3 to S8: the chain rule of one example, factor by factor; what shapes tell; what caching saves; one step down.

The network is the lecture's 12288-3-2-1 with 48 inputs, so that every number can be looked at.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import jaxnet
from experiments.experiment import Measurement, Options, Result, Table, Track, at_least, at_most
from experiments.figures import BLUE, GREY, ORANGE

CLAIM = (
    "Every factor of the chain rule written by hand is autodiff's number (S3 to S5). Where layers differ in size, only "
    "one product of the factors has the derivative's shape, and it is the right one (S6). Without cached activations "
    "the operations grow like the square of the depth (S7), and a step against the gradient lowers the cost by "
    "α‖∂J‖² (S8)."
)

SIZES, EQUAL_SIZES = (48, 3, 2, 1), (2, 2, 2, 1)
LOSS = jaxnet.binary_cross_entropy
LEARNING_RATE = 1e-4
NAMES = [
    name
    for number in (3, 2, 1)
    for name in (
        f"∂L/∂a[{number}]",
        f"∂a[{number}]/∂z[{number}]",
        f"∂L/∂z[{number}]",
        f"∂z[{number}]/∂W[{number}]",
        f"∂L/∂W[{number}]",
        f"∂L/∂b[{number}]",
        f"∂z[{number}]/∂a[{number - 1}]",
    )
    if name != "∂z[1]/∂a[0]"
]
WIDTH = 64  # of the deep networks whose operations are counted, and the number of their examples

Slope = Callable[[Array], Array]  # a -> g'(z)


def textbook_slope(a: Array) -> Array:
    """The sigmoid's derivative from its value, a(1 - a)."""
    return a * (1 - a)


def by_hand(params: Any, x: Array, y: Array, slope: Slope = textbook_slope) -> dict[str, Array]:
    """Every factor of S5 for one example, from the output back; `slope` is a -> g'(z)."""
    denses = [dense for dense in params if dense]
    a = [x]
    for weight, bias in denses:
        a.append(jax.nn.sigmoid(weight @ a[-1] + bias))
    factors, last = {}, len(denses)
    grad_a = -y / a[last] + (1 - y) / (1 - a[last])
    for number, (weight, _) in reversed(list(enumerate(denses, start=1))):
        factors[f"∂L/∂a[{number}]"] = grad_a
        factors[f"∂a[{number}]/∂z[{number}]"] = slope(a[number])
        delta = factors[f"∂L/∂z[{number}]"] = a[number] - y if number == last else grad_a * slope(a[number])
        factors[f"∂z[{number}]/∂W[{number}]"] = a[number - 1]
        factors[f"∂L/∂W[{number}]"] = jnp.outer(delta, a[number - 1])
        factors[f"∂L/∂b[{number}]"] = delta
        factors[f"∂z[{number}]/∂a[{number - 1}]"] = weight
        grad_a = weight.T @ delta
    return factors


def by_autodiff(params: Any, x: Array, y: Array) -> dict[str, Array]:
    """The same factors by automatic differentiation: of the loss by offsets added to z and a, and of every part."""
    denses = [dense for dense in params if dense]
    zeros = [jnp.zeros_like(bias) for _, bias in denses]

    def loss(denses: Any, z_offsets: list[Array], a_offsets: list[Array]) -> tuple[Array, Any]:
        a, seen = x, []
        for (weight, bias), z_offset, a_offset in zip(denses, z_offsets, a_offsets, strict=True):
            z = weight @ a + bias + z_offset
            seen.append((a, z))
            a = jax.nn.sigmoid(z) + a_offset
        return -(y * jnp.log(a) + (1 - y) * jnp.log(1 - a)).sum(), seen

    gradients, seen = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(denses, zeros, zeros)
    factors: dict[str, Array] = {}
    for number, ((weight, bias), (a, z), dense, grad_z, grad_a) in enumerate(
        zip(denses, seen, *gradients, strict=True), start=1
    ):
        by_weight = jax.jacobian(lambda weight, a, bias: weight @ a + bias)(weight, a, bias)
        factors[f"∂L/∂a[{number}]"] = grad_a
        factors[f"∂a[{number}]/∂z[{number}]"] = jax.jacobian(jax.nn.sigmoid)(z).diagonal()
        factors[f"∂L/∂z[{number}]"] = grad_z
        factors[f"∂z[{number}]/∂W[{number}]"] = by_weight[0, 0]
        factors[f"∂L/∂W[{number}]"] = dense.weight
        factors[f"∂L/∂b[{number}]"] = dense.bias
        factors[f"∂z[{number}]/∂a[{number - 1}]"] = jax.jacobian(lambda a, w, b: w @ a + b)(a, weight, bias)
    return factors


def _factors(params: Any, x: Array, y: Array, slope: Slope) -> tuple[Any, Any, Any, Array, Array]:
    """By hand, by autodiff, by the library; the long way round; the drop of the cost by a step, over α‖∂J‖²."""
    hand, auto, network = by_hand(params, x, y, slope), by_autodiff(params, x, y), jaxnet.mlp(SIZES, jaxnet.sigmoid)
    grad = iter([hand[f"∂L/∂{which}[{number}]"] for number in range(1, len(SIZES)) for which in "Wb"])
    gradient = jax.tree.unflatten(jax.tree.structure(params), list(grad))
    optimizer = jaxnet.gradient_descent(LEARNING_RATE)
    updates, _ = optimizer.update(gradient, optimizer.init(params))
    stepped = jax.tree.map(jnp.add, params, updates)
    cost = jaxnet.cost(network, LOSS)
    squares = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient))
    drop = (cost(params, x, y) - cost(stepped, x, y)) / (LEARNING_RATE * squares)
    (weight, bias), a_below = params[-1], hand[f"∂z[{len(SIZES) - 1}]/∂W[{len(SIZES) - 1}]"]
    a = jax.nn.sigmoid(weight @ a_below + bias)
    long_way = -(y / a * a * (1 - a) - (1 - y) / (1 - a) * a * (1 - a))
    return hand, auto, jaxnet.cost_and_gradient(network, LOSS)(params, x, y)[1], jnp.outer(long_way, a_below), drop


def _difference(actual: Any, expected: Any) -> np.ndarray:
    """‖actual - expected‖ / ‖expected‖ of every seed."""
    actual, expected = (np.asarray(array).reshape(len(array), -1) for array in (actual, expected))
    return np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)


# Shapes ---------------------------------------------------------------------------------------------------------------


def products(factors: Sequence[np.ndarray], shape: tuple[int, int]) -> list[np.ndarray]:
    """All different matrices of this shape that the factors give, each used once.

    In any order and any bracketing, transposed or not, multiplied as matrices or, where shapes agree, by elements.
    """
    made: dict[frozenset[int], list[np.ndarray]] = {}
    everything = range(len(factors))
    for size in range(1, len(factors) + 1):
        for chosen in map(frozenset, itertools.combinations(everything, size)):
            found: list[np.ndarray] = []
            candidates = [factors[i] for i in chosen] if size == 1 else _pairs(made, chosen)
            for candidate in itertools.chain(candidates, [c.T for c in candidates]):
                if not any(candidate.shape == f.shape and np.allclose(candidate, f, 1e-9, 1e-12) for f in found):
                    found.append(candidate)
            made[chosen] = found
    return [product for product in made[frozenset(everything)] if product.shape == shape]


def _pairs(made: dict[frozenset[int], list[np.ndarray]], chosen: frozenset[int]) -> list[np.ndarray]:
    """The products of two parts of the chosen factors, for every way to part them."""
    results = []
    for size in range(1, len(chosen)):
        for left in map(frozenset, itertools.combinations(sorted(chosen), size)):
            for a, b in itertools.product(made[left], made[chosen - left]):
                if a.shape[1] == b.shape[0]:
                    results.append(a @ b)
                if a.shape == b.shape or 1 in (a.size, b.size):
                    results.append(a * b)
    return results


def _shape_analysis(sizes: tuple[int, ...], seed: int) -> list[dict[str, Any]]:
    """For every weight: its factors' shapes, and how many products have its shape; whether the only one is right."""
    generator = np.random.default_rng(seed)
    params = [jaxnet.layers.Dense(*(jnp.asarray(generator.standard_normal(shape)) for shape in ((n, m), (n,))))
              for m, n in itertools.pairwise(sizes)]  # fmt: skip
    factors = by_hand(params, jnp.asarray(generator.standard_normal(sizes[0])), jnp.ones(1))
    rows = []
    for number in range(len(sizes) - 1, 0, -1):
        names = [f"∂z[{number}]/∂W[{number}]"]
        if number == len(sizes) - 1:
            names, delta = [f"∂L/∂z[{number}]", *names], f"δ[{number}]"
        else:
            above = f"∂z[{number + 1}]/∂a[{number}]"
            names = [f"∂L/∂z[{number + 1}]", above, f"∂a[{number}]/∂z[{number}]", *names]
            delta = f"(W[{number + 1}]ᵀ δ[{number + 1}] ⊙ g')"
        matrices = [np.asarray(factors[name]) for name in names]
        matrices = [matrix if matrix.ndim == 2 else matrix[:, None] for matrix in matrices]
        right = np.asarray(factors[f"∂L/∂W[{number}]"])
        found = products(matrices, (sizes[number], sizes[number - 1]))
        rows.append({
            "weight": f"∂L/∂W[{number}]",
            "factors": " , ".join(f"{n} ({m.shape[0]},{m.shape[1]})" for n, m in zip(names, matrices, strict=True)),
            "arranged": f"{delta} a[{number - 1}]ᵀ",
            "shape": f"({right.shape[0]},{right.shape[1]})",
            "products": len(found),
            "right": sum(bool(np.allclose(product, right, 1e-9, 1e-12)) for product in found),
        })  # fmt: skip
    return rows


# Caching --------------------------------------------------------------------------------------------------------------


def recomputing(network: jaxnet.Layer, loss: jaxnet.losses.Loss) -> Callable[..., Any]:
    """(params, copies of x, y) -> ∂J/∂params with no activation kept: every layer runs the forward pass for itself.

    Each layer gets a copy of x of its own, or the compiler would see that they compute the same and do it once.
    """

    def gradient(params: Any, copies: Sequence[Array], y: Array) -> Any:
        outputs, _ = network.forward(params, copies[0])
        delta, gradients = loss.gradient(outputs, y) / len(y), []
        for first, x in zip(reversed(range(0, len(network.parts), 2)), copies[1:], strict=True):
            below, layer = (jaxnet.serial(*parts) for parts in (network.parts[:first], network.parts[first:][:2]))
            here = params[first:][:2]
            _, cache = layer.forward(here, below.forward(params[:first], x)[0])
            delta, gradient = layer.backward(here, cache, delta)
            gradients = [*gradient, *gradients]
        return tuple(gradients)

    return gradient


def operations(depth: int) -> dict[str, float]:
    """Of one gradient in the compiled program, in matrix products of one layer: with cached activations and without."""
    network = jaxnet.mlp((WIDTH,) * (depth + 1), jaxnet.sigmoid)
    params = jax.eval_shape(network.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((WIDTH, WIDTH), float)
    cached = jax.jit(lambda *args: jaxnet.cost_and_gradient(network, jaxnet.squared_error)(*args)[1])
    not_cached = jax.jit(recomputing(network, jaxnet.squared_error))
    programs = cached.lower(params, x, x).compile(), not_cached.lower(params, (x,) * (depth + 1), x).compile()
    costs: list[Any] = [program.cost_analysis() for program in programs]
    return {name: cost["flops"] / (2 * WIDTH**3) for name, cost in zip(("cached", "recomputed"), costs, strict=True)}


def closed_form(depth: int) -> dict[str, float]:
    """Matrix products: L forward, L for the weights, L - 1 for δ; and l more for each layer l (L - 1 for the last)."""
    return {"cached": 3 * depth - 1, "recomputed": 3 * depth - 1 + (depth - 1) * (depth + 2) / 2}


# The run --------------------------------------------------------------------------------------------------------------


def run(options: Options, track: Track, slope: Slope = textbook_slope) -> Result:
    """The factors for every seed, autodiff being their judge; the products that shapes allow; the operations.

    Args:
        options: how to run.
        track: shows progress.
        slope: a -> g'(z), as the chain by hand has it.
    """
    depths = (1, 2, 4, 6) if options.quick else (1, 2, 4, 8, 16)
    seeds = 20 * options.seeds
    with jax.enable_x64(True):
        *keys, x_key = jax.random.split(options.key, 3)
        network = jaxnet.mlp(SIZES, jaxnet.sigmoid)
        params = jax.jit(jax.vmap(network.init))(jax.random.split(keys[0], seeds))
        x = jax.random.uniform(x_key, (seeds, SIZES[0]))
        y = jax.random.bernoulli(keys[1], 0.5, (seeds, 1)).astype(x.dtype)
        compiled = jax.jit(jax.vmap(lambda params, x, y: _factors(params, x, y, slope)))
        hand, auto, library, way, drop = jax.device_get(compiled(params, x, y))
        counts = {depth: operations(depth) for depth in track(depths, "operations")}
        shapes = {sizes: _shape_analysis(sizes, seed=0) for sizes in (SIZES, EQUAL_SIZES)}
    differences = {name: _difference(hand[name], auto[name]) for name in NAMES}
    gradients = [hand[f"∂L/∂{which}[{number}]"] for number in range(1, len(SIZES)) for which in "Wb"]
    to_library = [_difference(leaf, grad) for leaf, grad in zip(jax.tree.leaves(library), gradients, strict=True)]
    long_way = _difference(way, hand[f"∂L/∂W[{len(SIZES) - 1}]"])
    off = max(abs(counts[d][how] / closed_form(d)[how] - 1) for d in depths for how in counts[d])
    deepest = counts[depths[-1]]["recomputed"] / counts[depths[-1]]["cached"]
    measurements = (
        at_most(f"S5: factors against autodiff, largest relative difference, {seeds} seeds",
                max(d.max() for d in differences.values()), 1e-12),
        Measurement("S5: the same, median over factors and seeds", float(np.median(list(differences.values())))),
        at_most("S5: the library's gradient against the chain by hand, largest relative difference",
                np.max(to_library), 1e-12),
        at_most("S5: the long way round against (a - y) aᵀ, largest relative difference", long_way.max(), 1e-12),
        at_most("S6, 48-3-2-1: products with the derivative's shape, the most of any weight",
                max(row["products"] for row in shapes[SIZES]), 1),
        at_least("S6, 48-3-2-1: how many of them are right, the fewest",
                 min(row["right"] for row in shapes[SIZES]), 1),
        Measurement("S6, 2-2-2-1: products with the derivative's shape, the most of any weight: shapes do not decide",
                    max(row["products"] for row in shapes[EQUAL_SIZES])),
        at_most("S7: operations against the closed form, largest relative difference", off, 0.05),
        at_least(f"S7: operations without caching over with, at depth {depths[-1]}", deepest, 1 + depths[-1] / 8),
        at_most(f"S8: cost's drop over α‖∂J‖² at α = {LEARNING_RATE:g}, largest distance from 1",
                abs(drop - 1).max(), 0.01),
    )  # fmt: skip
    one = {name: (np.asarray(hand[name][0]), np.asarray(auto[name][0])) for name in NAMES}
    tables = (_chain_table(one, differences), _shape_table(shapes), _count_table(counts))
    drawn = {
        "factors": {name: numbers for name, (numbers, _) in one.items()},
        "y": float(y[0, 0]),
        "products": {
            "-".join(map(str, sizes)): {row["weight"]: row["products"] for row in rows}
            for sizes, rows in shapes.items()
        },
        "operations": {str(depth): counts[depth] | {"closed form": closed_form(depth)} for depth in depths},
    }
    return Result(measurements, drawn, tables)


def _chain_table(one: dict[str, Any], differences: dict[str, np.ndarray]) -> Table:
    rows = tuple(
        (
            name,
            f"({','.join(map(str, hand.shape))}{',' * (hand.ndim == 1)})",
            *(" ".join(f"{v:.4f}" for v in numbers.ravel()[:3]) + " …" * (hand.size > 3) for numbers in (hand, auto)),
            f"{differences[name].max():.1e}",
        )
        for name, (hand, auto) in one.items()
    )
    columns = ("factor", "shape", "by hand", "by autodiff", "relative difference, largest of all seeds")
    return Table("S5: the chain of one example, from the output back", columns, rows)


def _shape_table(shapes: dict[tuple[int, ...], list[dict[str, Any]]]) -> Table:
    rows = tuple(
        (
            "-".join(map(str, sizes)),
            *(str(row[what]) for what in ("weight", "factors", "arranged", "shape", "products")),
        )
        for sizes, weights in shapes.items()
        for row in weights
    )
    columns = ("network", "derivative", "factors", "arranged", "shape", "different products of that shape")
    return Table("S6: shape analysis", columns, rows)


def _count_table(counts: dict[int, dict[str, float]]) -> Table:
    rows = tuple(
        (str(depth), *(f"{number:.1f}" for how in count for number in (count[how], closed_form(depth)[how])))
        for depth, count in counts.items()
    )
    columns = ("layers", "cached", "closed form", "recomputed", "closed form")
    return Table("S7: operations of one gradient, in matrix products of one layer", columns, rows)


# The figure -----------------------------------------------------------------------------------------------------------


def _matrix(panel: Axes, left: float, middle: float, matrix: np.ndarray, label: str, largest: float) -> float:
    """Draws a matrix as cells, orange above 0 and blue below; returns where it ends."""
    rows, columns = matrix.shape
    width, height = (1.0, 0.62) if columns < 10 else (0.1, 0.62)
    top = middle + rows * height / 2
    for (i, j), value in np.ndenumerate(matrix):
        corner = (left + j * width, top - (i + 1) * height)
        colour = to_rgba(ORANGE if value > 0 else BLUE, 0.75 * abs(value) / largest)
        panel.add_patch(Rectangle(corner, width, height, facecolor=colour))
        if columns < 10:
            number = f"{value:.3f}" if abs(value) >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")
            place = (corner[0] + width / 2, corner[1] + height / 2)
            panel.text(*place, number.replace("-", "−"), ha="center", va="center", fontsize=7.5)
    whole = (left, top - rows * height), columns * width, rows * height
    panel.add_patch(Rectangle(*whole, fill=False, edgecolor=GREY))
    panel.text(left + columns * width / 2, top + 0.12, f"{label} ({rows},{columns})", ha="center", fontsize=8.5)
    return left + columns * width


def _draw_chain(panel: Axes, factors: dict[str, np.ndarray]) -> None:
    """The three weights' derivatives as products of matrices, in the order that the shapes allow."""
    last = len(SIZES) - 1
    for row, number in enumerate(range(last, 0, -1)):
        terms = [(factors[f"∂z[{number}]/∂W[{number}]"][None], f"a[{number - 1}]ᵀ" if number > 1 else "xᵀ", "·")]
        if number == last:
            terms.insert(0, (factors[f"∂L/∂z[{number}]"][:, None], f"δ[{number}]", ""))
        else:
            terms = [
                (factors[f"∂z[{number + 1}]/∂a[{number}]"].T, f"W[{number + 1}]ᵀ", ""),
                (factors[f"∂L/∂z[{number + 1}]"][:, None], f"δ[{number + 1}]", "·"),
                (factors[f"∂a[{number}]/∂z[{number}]"][:, None], f"g'(z[{number}])", "⊙"),
                *terms,
            ]
        x, middle = 0.0, -2.2 * row - 0.4 * (row == last - 1)
        for matrix, label, sign in [*terms, (factors[f"∂L/∂W[{number}]"], f"∂L/∂W[{number}]", "=")]:
            if sign:
                panel.text(x + 0.4, middle, sign, ha="center", va="center", fontsize=13)
                x += 0.8
            x = _matrix(panel, x, middle, matrix, label, float(np.abs(matrix).max()))
    panel.set(xlim=(-0.3, 17.2), ylim=(-6.0, 0.9))
    panel.set_title("S5, S6: one example's chain of factors, transposed and ordered as their shapes ask")
    panel.axis("off")


def plot(result: Result) -> Figure:
    """The chain of one example as matrices; every factor against autodiff; operations by depth."""
    drawn, canvas = result.drawn, Figure(figsize=(11, 7.4))
    panels = canvas.subplot_mosaic([["chain", "chain"], ["products", "operations"]], height_ratios=(1, 1))
    _draw_chain(panels["chain"], drawn["factors"])

    panel = panels["products"]
    places = np.arange(len(SIZES) - 1)
    for shift, (sizes, products_by_weight), colour in zip(
        (-0.2, 0.2), drawn["products"].items(), (BLUE, ORANGE), strict=True
    ):
        bars = panel.bar(places + shift, [*products_by_weight.values()], 0.36, color=colour, label=sizes)
        panel.bar_label(bars, fontsize=9)
    panel.set_xticks(places, [f"∂L/∂W[{number}]" for number in range(len(SIZES) - 1, 0, -1)])
    panel.set(
        title="S6: what shapes leave open", ylabel="different products of that shape", yscale="log", ylim=(0.5, 150)
    )
    panel.yaxis.set_major_formatter("{x:g}")
    panel.legend(title="layer sizes", loc="upper left")

    panel = panels["operations"]
    depths = [int(depth) for depth in drawn["operations"]]
    for how, colour, marker in (("recomputed", ORANGE, "s"), ("cached", BLUE, "o")):
        counted = [drawn["operations"][str(depth)][how] for depth in depths]
        formula = [drawn["operations"][str(depth)]["closed form"][how] for depth in depths]
        panel.plot(depths, formula, color=colour, linewidth=1, label="_")
        label = {"recomputed": "no cache: 3L − 1 + (L − 1)(L + 2)/2", "cached": "cached: 3L − 1"}[how]
        panel.plot(depths, counted, marker, color=colour, markersize=6, label=label)
    panel.set(title="S7: operations of one gradient (dots: compiled program)", xscale="log", yscale="log")
    panel.set(xlabel="layers L", ylabel="matrix products of one layer")
    panel.set_xticks(depths, [str(depth) for depth in depths])
    panel.minorticks_off()
    panel.set_yticks([2, 5, 10, 20, 50, 100, 200])
    panel.yaxis.set_major_formatter("{x:g}")
    panel.legend(loc="upper left")
    return canvas
