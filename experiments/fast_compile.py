"""Flags for programs that run for seconds: on a CPU, XLA compiles them in half its usual time.

It optimizes machine code less, makes loops by its older emitters, of which jaxlib 0.10 is the last to be sure of, and
splits no small program among threads. The programs take up to 1.6 times as long, so `benchmark` does without.
"""

import os

import jax

FLAGS = ["--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):  # XLA refuses to start with a flag that it does not know
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")


def compile_fast(optimization_level: int = 1) -> None:
    """Sets the flags for this process, before it compiles anything, and for those that it starts.

    At level 0, for programs that run once, compiling takes two thirds of that at level 1, and last bits may be lost.
    """
    flags = [f"--xla_backend_optimization_level={optimization_level}", *FLAGS]
    os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")])  # the user's come last and win
