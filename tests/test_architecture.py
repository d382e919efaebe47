"""The core never differentiates, and its modules import in one direction."""

import ast
import graphlib
import pydoc
import re
import tomllib
from pathlib import Path

import pytest

import jaxnet

PACKAGE = Path(__file__).parent.parent / "jaxnet"
ORDER = [
    "arguments",
    "page",
    "activations",
    "initializers",
    "losses",
    "layers",
    "network",
    "examples",
    "preprocessing",
    "optimizers.transformation",
    "optimizers.descent",
    "optimizers.rmsprop",
    "optimizers.adam",
    "optimizers.adam_maximum",
    "optimizers.lion",
    "optimizers.own",
    "optimizers",
    "step",
    "readings",
    "training.terminal",
    "training.scan",
    "training.curve",
    "training.history",
    "training.parallel",
    "training.validation",
    "training.epochs",
    "training.nonfinite",
    "training.checkpoint",
    "training.saving",
    "training.run",
    "training.fit",
    "training.streaming",
    "training.tiles",
    "training.sweep",
    "training",
    "interop",
    "verify.report",
    "verify.engine",
    "verify.candidates",
    "verify.mistakes",
    "verify.checks",
    "verify.judge",
    "verify.doors",
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


def modules():
    """Every module but the package itself: its name without the package's, and its source."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts).removesuffix("__init__").removesuffix(".")
        if name:
            yield name, path.read_text()


MODULES = dict(modules())


def imported(module):
    """The modules of the package that a module imports."""
    for name, what in imports(MODULES[module]):
        if name.startswith("jaxnet"):
            inside = f"{name}.{what}".removeprefix("jaxnet").removeprefix(".")
            yield inside if inside in MODULES else name.removeprefix("jaxnet").removeprefix(".")


def place(module):
    """Where a module stands in the order, by its folder if that is what the order names."""
    parts = module.split(".")
    folders = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next(ORDER.index(name) for name in folders if name in ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_only_from_those_above_or_beside(module):
    below = [other for other in imported(module) if other and place(other) > place(module)]
    assert below == []


def test_no_modules_import_each_other():
    graph = {module: {other for other in imported(module) if other and other != module} for module in MODULES}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) >= len(MODULES)


def test_order_names_every_folder_or_module():
    assert {ORDER[place(module)] for module in MODULES} == set(ORDER)


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


def test_init_re_exports_about_45_names_and_says_what_each_is_for():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    from_here = [
        node for node in tree.body if isinstance(node, ast.ImportFrom) and str(node.module).startswith("jaxnet")
    ]
    exported = [str(alias.asname) for node in from_here for alias in node.names]
    assert sorted(name for name in dir(jaxnet) if name[0] != "_" and name not in jaxnet._ROOMS) == sorted(exported)
    assert 40 <= len(exported) <= 50
    described = str(jaxnet.__doc__).split("needs:")[1].split("`help`")[0]
    assert all(re.search(rf"\b{name}\b", described) for name in exported)
    assert len(pydoc.render_doc(jaxnet).splitlines()) <= 3 * 40


def test_names_that_stood_here_are_found_with_a_warning():
    with pytest.warns(DeprecationWarning, match=r"jaxnet.he_normal is now jaxnet.initializers.he_normal"):
        assert jaxnet.he_normal is jaxnet.initializers.he_normal
    with pytest.warns(DeprecationWarning, match=r"jaxnet.TrainState is now jaxnet.training.TrainState"):
        assert jaxnet.TrainState is jaxnet.training.TrainState
    for name in ("jnp", "nothing", "_fresh"):
        with pytest.raises(AttributeError, match=f"module 'jaxnet' has no attribute '{name}'"):
            getattr(jaxnet, name)


def test_types_are_checked_at_run_time_everywhere_but_in_the_verifier():
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    checked = settings["addopts"].split("--jaxtyping-packages=")[1].split(",")
    rooms = {
        f"jaxnet.{path.stem}" for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {name for name in checked if name.startswith("jaxnet.")} == rooms - {"jaxnet.__init__", "jaxnet.verify"}
