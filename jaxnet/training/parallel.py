"""Data parallel training: every device of a mesh takes an equal share of the batch, on one host or on many.

The hand-derived backward needs no change. A gradient reads the batch only through sums over its examples, the
contraction δᵀ a and the sum of δ, each δ(i) being divided by the m of the *whole* batch before it enters. A sum does
not mind who adds up which part: the compiler, told that the examples lie on n devices, has each sum its own and adds
the n partial sums (an all-reduce). All else in a backward reads one example and needs nothing from elsewhere.

`parallel_step` leaves that to the compiler; `all_reduce_step` has it written out. They are the same step but for the
order of the sums.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from optax import GradientTransformation

from jaxnet.layers import Layer, Reading, map_layers, run
from jaxnet.losses import Loss
from jaxnet.network import cost_and_gradient
from jaxnet.step import TrainState, descend, train_step

# Where things lie ----------------------------------------------------------------------------------------------------


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with one axis, "data", along which a batch is divided.

    The other functions here take any mesh whose axes are all Auto, and divide a batch along all of them.

    Args:
        devices: of JAX; all there are if not given, on every host that `jax.distributed` has joined.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def state_shardings(state: TrainState, mesh: Mesh, *, shard_parameters: bool = False) -> TrainState:
    """Where each array of a state lies: on every device in full, or divided among them.

    Divided are parameters and what the optimizer holds in their shapes, each along its longest axis that the number of
    devices divides, of equally long ones the last: the first may be the one on which `repeat` stacks its layers.
    Where it divides none, the array is on every device, as the key and the step always are.

    A state that is too large for one device is made where it belongs:

        init = functools.partial(jaxnet.init_state, network, optimizer)
        shardings = jaxnet.training.state_shardings(jax.eval_shape(init, key), mesh, shard_parameters=True)
        state = jax.jit(init, out_shardings=shardings)(key)

    Args:
        state: of arrays or of `jax.ShapeDtypeStruct`.
        mesh: the devices.
        shard_parameters: divide them.

    Returns:
        The state with a `NamedSharding` in the place of each array.

    Raises:
        ValueError: for a mesh with an axis that is not Auto.
    """
    everywhere = jax.tree.map(lambda leaf: _on_every_device(mesh), state)
    if not shard_parameters:
        return everywhere
    params, opt_state = jax.tree.map(lambda leaf: _divided(leaf, mesh), (state.params, state.opt_state))
    return everywhere._replace(params=params, opt_state=opt_state)


def place_state(state: TrainState, mesh: Mesh, *, shard_parameters: bool = False) -> TrainState:
    """A copy of the state on the devices of a mesh, as `state_shardings` has it.

    With several hosts each calls this with the same state, which the same key makes.

    Raises:
        ValueError: for a mesh with an axis that is not Auto.
    """
    shardings = state_shardings(state, mesh, shard_parameters=shard_parameters)
    # A device keeps the buffer that it has, and a step to which the copy is donated must leave the original alone.
    state = jax.tree.map(jnp.copy, state)
    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
        return jax.device_put(state, shardings)
    return jax.jit(lambda state: state, out_shardings=shardings)(state)


def place_batch(x: Any, y: ArrayLike, mesh: Mesh) -> tuple[Any, Array]:
    """A batch on the devices of a mesh, an equal share of the examples on each.

    Args:
        x, y: the examples, x an array or a tree of arrays; with several hosts those that this one contributes, the same
            number on each. The whole batch is what all contribute, in the order of the devices.
        mesh: the devices.

    Returns:
        The whole batch, x and y.

    Raises:
        ValueError: if the devices do not divide the examples evenly, or for a mesh with an axis that is not Auto.
    """
    sharding = _by_examples(mesh)
    check_all_divide(x, y, len(mesh.local_devices))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), (x, y))


def _check_mesh(mesh: Mesh) -> None:
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            f"a mesh needs axes of type Auto, got {dict(zip(mesh.axis_names, mesh.axis_types, strict=True))}: "
            "make it with data_mesh(), or with jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,))"
        )


def check_all_divide(x: Any, y: Any, devices: int) -> None:
    """Raises `ValueError` unless so many devices can share all arrays of a batch evenly."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        _check_divides(f"x{jax.tree_util.keystr(path)}", leaf, devices)
    _check_divides("y", y, devices)


def _check_divides(name: str, examples: Any, devices: int) -> None:
    """Raises unless every device gets the same number of examples: only then is the mean over all that of the means."""
    m = jnp.shape(examples)[0] if jnp.ndim(examples) else 0
    if m == 0 or m % devices:
        raise ValueError(
            f"{devices} devices cannot share {m} examples ({name} of shape {jnp.shape(examples)}) evenly: "
            f"take a multiple of {devices}, and leave out the rest of an epoch"
        )


def _on_every_device(mesh: Mesh) -> NamedSharding:
    _check_mesh(mesh)
    return NamedSharding(mesh, PartitionSpec())


def _by_examples(mesh: Mesh) -> NamedSharding:
    _check_mesh(mesh)
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def _divided(leaf: Any, mesh: Mesh) -> NamedSharding:
    """Along the longest axis that the devices divide, the last of equally long ones; else on every device."""
    _check_mesh(mesh)
    lengths = [(length, axis) for axis, length in enumerate(leaf.shape) if length and length % mesh.size == 0]
    if not lengths:
        return _on_every_device(mesh)
    _, axis = max(lengths)
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names))


def place_examples(examples: Any, mesh: Mesh) -> Any:
    """All examples on every device, from which a step on a mesh takes each device's share of its batch."""
    return jax.device_put(examples, _on_every_device(mesh))


# By the compiler -----------------------------------------------------------------------------------------------------


def parallel_step(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    state: TrainState,
    x: Any,
    y: ArrayLike,
    *,
    mesh: Mesh,
    shard_parameters: bool = False,
) -> tuple[TrainState, Array]:
    """`train_step` on all devices of a mesh, for use under `jax.jit`: the new state and J of the whole batch.

    With `shard_parameters` (fully sharded data parallel) each device holds and updates a share of the parameters and of
    the optimizer's state. A layer's parameters are gathered for its forward and again for its backward, and no longer:
    inside `repeat`, for one layer at a time.

    Args:
        network, loss, optimizer, state: as for `train_step`; the state from `place_state`.
        x, y: the whole batch, from `place_batch`.
        mesh: the devices.
        shard_parameters: as the state is placed; the new state is placed the same way.

    Raises:
        ValueError: if the devices do not divide the batch evenly, or for a mesh with an axis that is not Auto.
    """
    check_all_divide(x, y, mesh.size)
    shardings = state_shardings(state, mesh, shard_parameters=shard_parameters)
    x, y = jax.lax.with_sharding_constraint((x, y), _by_examples(mesh))
    network = map_layers(functools.partial(_Gathering, mesh=mesh), network) if shard_parameters else network
    state, cost = train_step(network, loss, optimizer, state, x, y)
    return jax.lax.with_sharding_constraint((state, cost), (shardings, _on_every_device(mesh)))


def on_mesh(step: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """A step (state, *batch) -> (state, ...) that every device of a mesh takes on its share; None: as it is.

    A batch that the devices cannot share evenly, such as the last of an epoch, is computed whole on each of them.
    """
    if mesh is None:
        return step

    def shared(state: TrainState, *batch: Any) -> Any:
        divides = len(jax.tree.leaves(batch)[0]) % mesh.size == 0
        batch = jax.lax.with_sharding_constraint(batch, _by_examples(mesh) if divides else _on_every_device(mesh))
        return jax.lax.with_sharding_constraint(step(state, *batch), _on_every_device(mesh))

    return shared


@dataclass(frozen=True)
class _Gathering(Reading):
    """The leaf that has all of its parameters on every device while it computes.

    Left to itself, the compiler would rather gather the examples and divide the neurons.
    """

    mesh: Mesh

    def _gathered(self, params: Any) -> Any:
        return jax.lax.with_sharding_constraint(params, _on_every_device(self.mesh))

    def forward(self, params: Any, inputs: Any, *, key: Array | None = None) -> tuple[Any, Any]:
        """The leaf's."""
        return run(self.layer, self._gathered(params), inputs, key)

    def backward(self, params: Any, cache: Any, grad_outputs: Any) -> tuple[Any, Any]:
        """The leaf's."""
        return self.layer.backward(self._gathered(params), cache, grad_outputs)


# Written out ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _AllReduced:
    """(params, x, y) -> (J, ∂J/∂params)."""

    network: Layer
    loss: Loss
    mesh: Mesh

    def __call__(self, params: Any, x: Any, y: ArrayLike) -> tuple[Array, Any]:
        mesh = self.mesh
        check_all_divide(x, y, mesh.size)
        everywhere, by_examples = PartitionSpec(), PartitionSpec(mesh.axis_names)

        def on_one_device(params: Any, x: Any, y: ArrayLike) -> tuple[Array, Any]:
            own = cost_and_gradient(self.network, self.loss)(params, x, y)
            total = jax.lax.psum(own, mesh.axis_names)
            return jax.tree.map(lambda leaf: leaf / mesh.size, total)

        specs = (everywhere, by_examples, by_examples)
        return jax.shard_map(on_one_device, mesh=mesh, in_specs=specs, out_specs=everywhere)(params, x, y)


def all_reduced_cost_and_gradient(
    network: Layer, loss: Loss, mesh: Mesh
) -> Callable[[Any, Any, ArrayLike], tuple[Array, Any]]:
    """`cost_and_gradient` with the communication written out: the function (params, x, y) -> (J, ∂J/∂params).

    Of the m examples, each of n devices has k = m/n. Device d computes J_d = (1/k) Σ_(i on d) L(i) and ∂J_d/∂params as
    if there were no others. Then J = (1/m) Σ_i L(i) = (1/n) Σ_d J_d, because all k are equal, and the derivative is
    linear: ∂J/∂params = (1/n) Σ_d ∂J_d/∂params. Σ_d is `psum`.

    The function raises `ValueError` if the devices do not divide the batch evenly.

    Raises:
        ValueError: for a mesh with an axis that is not Auto, and a network that couples the examples of a batch or
            draws random numbers: each device would do so for its own share.
    """
    _check_mesh(mesh)
    if network.couples_examples or network.needs_key:
        what = "couples the examples of a batch" if network.couples_examples else "draws random numbers"
        raise ValueError(f"{network.name} {what}, and each device would do so for its own share: use parallel_step")
    return _AllReduced(network, loss, mesh)


def all_reduce_step(
    network: Layer,
    loss: Loss,
    optimizer: GradientTransformation,
    state: TrainState,
    x: Any,
    y: ArrayLike,
    *,
    mesh: Mesh,
) -> tuple[TrainState, Array]:
    """`parallel_step` with the all-reduce written out, the parameters being on every device: the new state and J.

    Raises:
        ValueError: if the devices do not divide the batch evenly, or for a mesh with an axis that is not Auto.
    """
    cost, gradient = all_reduced_cost_and_gradient(network, loss, mesh)(state.params, x, y)
    state, _ = descend(optimizer, state, gradient)
    return state, cost
