"""Flags for programs that run for seconds: on a CPU, XLA compiles them in half its usual time.

It optimizes machine code less, and makes loops by its older emitters, of which jaxlib 0.10 is the last to be sure of.
The programs take up to 1.6 times as long, so `benchmark` does without.
"""

import os

import jax

FLAGS = ["--xla_backend_optimization_level=1"]
if jax.__version_info__ < (0, 11):  # XLA refuses to start with a flag that it does not know
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")


def compile_fast() -> None:
    """Sets the flags for this process, before it compiles anything, and for those that it starts."""
    os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")])  # the user's come last and win
