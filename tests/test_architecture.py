"""The core never differentiates, and its modules import in one direction."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxnet"
ORDER = [
    "arguments",
    "activations",
    "initializers",
    "losses",
    "layers",
    "network",
    "per_example",
    "precision",
    "preprocessing",
    "optimizers.transformation",
    "optimizers.descent",
    "optimizers.rmsprop",
    "optimizers.adam",
    "optimizers.adam_maximum",
    "optimizers.lion",
    "optimizers",
    "terminal",
    "step",
    "updating",
    "diagnostics",
    "scan",
    "examples",
    "history",
    "epochs",
    "nonfinite",
    "checkpoint",
    "training",
    "streaming",
    "tiles",
    "sweep",
    "parallel",
    "interop",
    "verify.report",
    "verify.constants",
    "verify.problem",
    "verify.interpreter",
    "verify.reference",
    "verify.candidate",
    "verify.points",
    "verify.comparison",
    "verify.taylor",
    "verify.trial",
    "verify.kinks",
    "verify.diagnosis.evidence",
    "verify.diagnosis.transformations",
    "verify.diagnosis.digits",
    "verify.diagnosis.elements",
    "verify.diagnosis.examples",
    "verify.diagnosis.mutants",
    "verify.diagnosis.elementwise",
    "verify.diagnosis.shapes",
    "verify.diagnosis.simulated",
    "verify.diagnosis",
    "verify.contract",
    "verify.calls",
    "verify.mathematics",
    "verify.numerics",
    "verify.judge",
    "verify.gradients",
    "verify.networks",
    "verify.optimizers.program",
    "verify.optimizers.truth",
    "verify.optimizers.recipe",
    "verify.optimizers.recognition",
    "verify.optimizers.conventions",
    "verify.optimizers.sequences",
    "verify.optimizers.fields",
    "verify.optimizers.differences",
    "verify.optimizers.adapters",
    "verify.optimizers.settings",
    "verify.optimizers.form",
    "verify.optimizers.comparison",
    "verify.optimizers.diagnosis",
    "verify.optimizers.findings",
    "verify.optimizers.verification",
    "verify.optimizers",
    "verify",
]
AUTODIFF = {
    "grad", "value_and_grad", "vjp", "jvp", "linearize", "linear_transpose", "jacfwd", "jacrev", "jacobian", "hessian",
}  # fmt: skip
FROM_OPTAX = {"GradientTransformation", "apply_updates"}


def autodiff_names(source):
    """Every use of autodiff in a module: `jax.grad`, `from jax import grad`, `jax.extend.linear_util`, ..."""
    tree = ast.parse(source)
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    return (attributes | names | imported) & AUTODIFF


def imports(source):
    """(module, name) of every import; (module, None) where the module itself is imported."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def core_modules():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "verify" not in path.relative_to(PACKAGE).parts]


@pytest.mark.parametrize("path", core_modules(), ids=lambda path: path.stem)
def test_core_never_differentiates(path):
    assert not autodiff_names(path.read_text())


@pytest.mark.parametrize(
    "source", ["import jax\njax.grad(f)", "from jax import vjp as pull", "from jax import *\nhessian(f)", "jax.ad.jvp"]
)
def test_autodiff_is_found_however_it_is_written(source):
    assert autodiff_names(source)


@pytest.mark.parametrize("module", ORDER)
def test_modules_import_only_from_those_above(module):
    above = {f"jaxnet.{name}" for name in ORDER[: ORDER.index(module)]}
    path = PACKAGE / (module.replace(".", "/") + ".py")
    if not path.exists():
        path = path.with_suffix("") / "__init__.py"
    used = set()
    for name, imported in imports(path.read_text()):
        if name.startswith("jaxnet"):
            submodule = f"{name}.{imported}"
            used.add(submodule if submodule.removeprefix("jaxnet.") in ORDER else name)
    assert used <= above


def test_order_names_every_module():
    found = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    assert {name.removesuffix(".__init__") for name in found} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("path", core_modules(), ids=lambda path: path.stem)
def test_core_takes_no_update_rule_from_optax(path):
    taken = [(module, name) for module, name in imports(path.read_text()) if module.split(".")[0] == "optax"]
    assert all(name in FROM_OPTAX for _, name in taken)


def test_importing_jaxnet_loads_nothing_heavy():
    heavy = {"matplotlib", "rich", "sklearn", "typer", "orbax", "h5py", "PIL", "jinja2", "scipy", "experiments"}
    for path in core_modules():
        top_level = ast.parse(path.read_text()).body
        source = "\n".join(ast.unparse(node) for node in top_level if isinstance(node, ast.Import | ast.ImportFrom))
        assert not {module.split(".")[0] for module, _ in imports(source)} & heavy, path.name


def test_init_only_re_exports_what_all_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    kinds = {type(node) for node in tree.body[1:]}
    assert kinds == {ast.ImportFrom, ast.Assign}
    exported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    (assignment,) = (node for node in tree.body if isinstance(node, ast.Assign))
    assert ast.literal_eval(assignment.value) == sorted(exported)
