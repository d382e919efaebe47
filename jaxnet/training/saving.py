"""A trained network in a file that loads without running code, by safetensors."""

import json
import os
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
    arrays = _named(params)
    found = {name: _form(array) for name, array in arrays.items()}
    _check_same(f"the parameters are not those of {network.name}", found, _expected(network))
    content = library.numpy.save(
        {name: np.asarray(array) for name, array in arrays.items()},
        metadata={"network": json.dumps(layer_names(network))},
    )
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        if partial.is_file():
            partial.unlink()


def load_parameters(path: str | os.PathLike[str], network: Layer) -> Any:
    """The parameters that `save_parameters` wrote, in the structure in which the network has them.

    Raises:
        ValueError: if the file is that of another network, which the message compares, or no such file at all.
        OSError: if it cannot be read.
        ImportError: if safetensors, of the extra `checkpoint`, is not installed.
    """
    library = _safetensors()
    expected = _expected(network)
    try:
        with library.safe_open(path, framework="flax") as file:
            slices = {name: file.get_slice(name) for name in list(file.keys())}
            found = {name: f"{part.get_dtype()}{list(part.get_shape())}" for name, part in slices.items()}
            _check_same(f"{path} holds the parameters of another network than {network.name}", found, expected)
            arrays = [file.get_tensor(name) for name in expected]
    except library.SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no file of safetensors: {error}") from error
    return jax.tree.structure(jax.eval_shape(network.init, jax.random.key(0))).unflatten(arrays)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("saving parameters needs safetensors: pip install 'jaxnet-by-hand[checkpoint]'") from error
    return safetensors


def _expected(network: Layer) -> dict[str, str]:
    """The form of each array of a network's parameters."""
    check_layer(network)
    arrays = _named(jax.eval_shape(network.init, jax.random.key(0)))
    return {name: _form(array) for name, array in arrays.items()}


def _form(array: Any) -> str:
    """The dtype and the shape of an array in the words of the format: F32[8, 4], BF16[3], I64[]."""
    dtype = jnp.result_type(array)
    kind = "BF" if dtype == jnp.bfloat16 else dtype.kind.upper()
    return f"{'BOOL' if dtype.kind == 'b' else f'{kind}{8 * dtype.itemsize}'}{list(jnp.shape(array))}"


def _named(params: Any) -> dict[str, Any]:
    """The leaves by where they are."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _check_same(what: str, found: dict[str, str], expected: dict[str, str]) -> None:
    """Raises ValueError, naming the first difference, unless names, shapes and dtypes are the same."""
    for name in dict.fromkeys([*expected, *found]):
        if found.get(name) != expected.get(name):
            there, here = found.get(name, "nothing"), expected.get(name, "nothing")
            raise ValueError(f"{what}: {name} is {there} there and {here} in the network")
