"""A trained network in a file that loads without running code, by safetensors."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.layers import Layer, check_layer
from jaxnet.readings.observe import layer_names


def save_parameters(path: str | os.PathLike[str], network: Layer, params: Any) -> None:
    """Writes the parameters of a network to a file, in the format of safetensors.

    The arrays are named by where they are in the tree, "0/W" for instance; with them are the names of the layers. An
    older file of that name is replaced when the new one is complete.

    Args:
        path: of the file, such as "digits.safetensors".
        network: whose parameters they are.
        params: as `network.init` makes them; `state.params` after training.

    Raises:
        ValueError: if they are those of another network.
        OSError: if the file cannot be written.
        ImportError: if safetensors, of the extra `checkpoint`, is not installed.
    """
    library, path = _safetensors(), Path(path)
    expected, found = _expected(network), _named(params)
    _check_same(f"the parameters are not those of {network.name}", found, expected)
    arrays = {name: np.asarray(array) for name, array in found.items()}
    content = library.numpy.save(arrays, metadata={"network": json.dumps(layer_names(network))})
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_parameters(path: str | os.PathLike[str], network: Layer) -> Any:
    """The parameters that `save_parameters` wrote, in the structure in which the network has them.

    Raises:
        ValueError: if the file is that of another network, which the message compares, or no such file at all.
        OSError: if it cannot be read.
        ImportError: if safetensors, of the extra `checkpoint`, is not installed.
    """
    library = _safetensors()
    expected = _expected(network)
    content = Path(path).read_bytes()
    with _damage_named(path, library):
        found = library.numpy.load(content)
    _check_same(f"{path} holds the parameters of another network than {network.name}", found, expected)
    structure = jax.tree.structure(jax.eval_shape(network.init, jax.random.key(0)))
    return structure.unflatten([jnp.asarray(found[name]) for name in expected])


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("saving parameters needs safetensors: pip install 'jaxnet-by-hand[checkpoint]'") from error
    return safetensors


@contextmanager
def _damage_named(path: Any, library: Any) -> Iterator[None]:
    try:
        yield
    except library.SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no file of safetensors: {error}") from error


def _expected(network: Layer) -> dict[str, Any]:
    check_layer(network)
    return _named(jax.eval_shape(network.init, jax.random.key(0)))


def _named(params: Any) -> dict[str, Any]:
    """The leaves by where they are."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _check_same(what: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises ValueError, naming the first difference, unless names, shapes and dtypes are the same."""
    for name in dict.fromkeys([*expected, *found]):
        here, there = (
            f"{side[name].dtype}{list(side[name].shape)}" if name in side else "nothing" for side in (expected, found)
        )
        if here != there:
            raise ValueError(f"{what}: {name} is {there} there and {here} in the network")
