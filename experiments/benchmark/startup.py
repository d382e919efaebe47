"""What is paid once: compiling a deep stack, and importing."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxnet

DEPTHS = (10, 100, 1000)


def stack(depth: int) -> Callable[[], Any]:
    """Traces the cost and gradient of a stack of `depth` equal hidden layers, on a batch of 64."""
    hidden = jaxnet.serial(jaxnet.dense(32, 32), jaxnet.elementwise(jaxnet.tanh))
    network = jaxnet.serial(jaxnet.dense(64, 32), jaxnet.repeat(hidden, depth), jaxnet.dense(32, 10))
    params = jax.eval_shape(network.init, jax.random.key(0))
    x, y = jax.ShapeDtypeStruct((64, 64), jnp.float32), jax.ShapeDtypeStruct((64,), jnp.int32)
    gradient = jax.jit(jaxnet.cost_and_gradient(network, jaxnet.softmax_cross_entropy))
    return lambda: gradient.lower(params, x, y)


def printed(program: str) -> str:
    """What a program prints in a process of its own, which finds nothing compiled earlier."""
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def import_seconds() -> float:
    """What `import jaxnet` adds to `import jax, optax`, in a process of its own."""
    program = "import jax, optax, time; t = time.perf_counter(); import jaxnet; print(time.perf_counter() - t)"
    return float(printed(program))
