"""What is asked of a derivative, in this order; each check looks at a hearing and answers with an outcome."""

# Of findings that checks make by themselves; the others are those of mistakes.
KINDS = frozenset(
    ("structure", "shape", "dtype", "non_finite", "zero", "nonlinear", "kink", "precision", "impure", "convention")
)
