"""The house rules, read from the source: imports run one way, files stay small, masks are never written into weights."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import nextpixel

ROOT = Path(nextpixel.__file__).parent

# What each part of the core may import. The rest of the package is the rim, which may import all of it.
CORE = {
    "errors": set(),
    "files": {"errors"},
    "typed": set(),
    "recording": set(),
    "progress": set(),
    "jit": set(),
    "grid": {"recording", "errors"},
    "layers": {"grid", "recording", "errors"},
    "likelihoods": {"errors"},
    "condition": {"layers", "errors"},
    "drawing": {"layers", "errors"},
    "raster": {"layers", "likelihoods", "progress", "errors"},
    "fixed_point": {"layers", "raster", "progress", "errors"},
    "compiled": {"grid", "layers", "likelihoods", "raster", "recording", "jit", "progress", "drawing", "errors"},
    "models": {
        *("grid", "layers", "likelihoods", "condition", "raster", "fixed_point", "compiled", "drawing", "recording", "progress"),
        *("errors", "files", "typed"),
    },
}
# The rim in its own order: a part imports only parts to its left, and parts not named here.
RIM = (
    "machine",
    "palette",
    "pictures",
    "inspection",
    "data",
    "coding",
    "scoring",
    "embedding",
    "training",
    "benchmark",
    "cli",
    "studio",
)

# Imports inside a function that may run against the order, each with its reason.
LAZY = {
    ("nextpixel.models.base", "nextpixel.models.storage"): "model.save(folder), as users expect it",
    ("nextpixel.models.storage", "nextpixel.models"): "load finds the class in the registry, which is made of all models",
    (
        "nextpixel.models.multiscale",
        "nextpixel.models",
    ): "a stage is any class of the registry, which holds this one too",
}


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imports(module):
    """The nextpixel modules that a file imports, anywhere in it but for type checkers only."""
    found = set()
    for_types = [
        node for node in ast.walk(TREES[module]) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    skipped = {child for node in for_types for child in ast.walk(node)}
    for node in set(ast.walk(TREES[module])) - skipped:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in TREES else node.module for name in names}
    return {name for name in found if name.split(".")[0] == "nextpixel"}


def part(module):
    """The part of the house: "layers" of nextpixel.layers.masked, "" of nextpixel itself."""
    return [*module.split("."), ""][1]


def test_the_whole_package_is_read():
    assert {"nextpixel", "nextpixel.grid", "nextpixel.models", "nextpixel.models.base", "nextpixel.layers.masked"} <= set(TREES)
    assert set(CORE) <= set(map(part, TREES))
    assert all(target in TREES for module in TREES for target in imports(module))
    assert "nextpixel.errors" in imports("nextpixel.models.base")


@pytest.mark.parametrize("own", sorted(set(CORE) | set(RIM)))
def test_imports_run_one_way(own):
    for module in filter(lambda module: part(module) == own, TREES):
        others = {part(target) for target in imports(module)} - {own}
        wrong = others - CORE[own] if own in CORE else others & set(RIM[RIM.index(own) + 1 :])
        assert not wrong, module


def test_no_two_modules_import_each_other():
    graph = {module: {target for target in imports(module) if (module, target) not in LAZY} for module in TREES}
    # The face imports nothing when it is imported; the test below holds it to that.
    graph.pop("nextpixel")
    graphlib.TopologicalSorter(graph).prepare()


def test_the_exceptions_are_imports_inside_functions():
    for module, target in LAZY:
        assert target in imports(module)
        top = [node for node in TREES[module].body if isinstance(node, ast.ImportFrom)]
        assert target not in {node.module for node in top}


@pytest.mark.parametrize(
    "module", ["nextpixel", "nextpixel.errors", "nextpixel.files", "nextpixel.data.settings", "nextpixel.training.settings"]
)
def test_light_modules_do_not_import_torch(module):
    code = f"import sys, {module}; sys.exit(', '.join({{'torch', 'lightning', 'numpy'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""


def test_files_stay_small():
    sizes = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in FILES.items()}
    assert {module: size for module, size in sizes.items() if size > 400} == {}


def attributes(node, name):
    return [n for n in ast.walk(node) if isinstance(n, ast.Attribute) and n.attr == name]


def test_nothing_writes_to_the_data_of_a_tensor():
    for module, tree in TREES.items():
        assert part(module) not in CORE or not attributes(tree, "data"), module
        for node in ast.walk(tree):
            if isinstance(node, ast.AugAssign):
                assert not attributes(node.target, "data"), module  # weight.data *= mask
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.endswith("_"):
                assert not attributes(node.func.value, "data"), module  # weight.data.mul_(mask)


def test_no_batch_norm():
    for module, tree in TREES.items():
        names = {getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(tree)}
        assert not [name for name in names if "batchnorm" in name.lower().replace("_", "")], module


def test_every_module_says_what_it_is():
    assert [module for module, tree in TREES.items() if not ast.get_docstring(tree)] == []
