"""The house rules, read from the source: imports run one way, files stay small, masks are never written into weights."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nextpixel
from nextpixel.data.splits import load
from nextpixel.models import PixelCNN
from nextpixel.recipes import make_experiment, read_recipe
from nextpixel.scoring.baselines import PixelMarginal

ROOT = Path(nextpixel.__file__).parent

# The rooms from left to right: a room imports only rooms to its left.
ORDER = (
    *("errors", "files", "bundled", "locks", "progress", "hub", "layers", "likelihoods", "conditions", "scan", "compiled"),
    *("sampling", "models", "machine", "results", "pictures", "inspection", "data", "coding", "scoring", "recipes", "training"),
    *("reports", "identities", "likelihood_run", "bench", "cli"),
)
# Imports inside a function that may run against the order, each with its reason.
LAZY = {
    ("nextpixel.models.pretrained", "nextpixel.models.storage"): "model.save(folder), as users expect it",
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
    """The nextpixel modules that a file imports, anywhere in it, for type checkers too."""
    found = set()
    for node in ast.walk(TREES[module]):
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
    assert {"nextpixel", "nextpixel.layers.grid", "nextpixel.models", "nextpixel.models.base", "nextpixel.layers.masked"} <= set(
        TREES
    )
    assert set(map(part, TREES)) == {*ORDER, "", "__main__"}
    assert all(target in TREES for module in TREES for target in imports(module))
    assert "nextpixel.errors" in imports("nextpixel.models.base")


@pytest.mark.parametrize("own", ORDER)
def test_imports_run_one_way(own):
    later = set(ORDER[ORDER.index(own) + 1 :])
    wrong = [(module, target) for module in TREES if part(module) == own for target in imports(module) if part(target) in later]
    assert not wrong


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
    "module", ["nextpixel", "nextpixel.errors", "nextpixel.files", "nextpixel.data.settings", "nextpixel.recipes.settings"]
)
def test_light_modules_do_not_import_torch(module):
    code = f"import sys, {module}; sys.exit(', '.join({{'torch', 'lightning', 'numpy'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""


def test_files_stay_small():
    sizes = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in FILES.items()}
    assert {module: size for module, size in sizes.items() if size > 400} == {}


def test_no_module_defines_a_name_twice():
    for module, tree in TREES.items():
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        for node in tree.body:
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                names += [part.id for part in ast.walk(target) if isinstance(part, ast.Name)] if target is not None else []
        assert len(names) == len(set(names)), (module, sorted(name for name in set(names) if names.count(name) > 1))


def attributes(node, name):
    return [n for n in ast.walk(node) if isinstance(n, ast.Attribute) and n.attr == name]


def test_nothing_writes_to_the_data_of_a_tensor():
    for module, tree in TREES.items():
        assert part(module) not in ORDER[: ORDER.index("machine")] or not attributes(tree, "data"), module
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


LIBRARIES = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}  # by the names that they are imported by


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    text = (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    declared = {name.lower().replace("-", "_") for name in re.findall(r'"([A-Za-z0-9_-]+)(?:\[\w+\])?>=[^"]*"', text)}
    names = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.split(".")[0])
    imported = {LIBRARIES.get(name, name).lower().replace("-", "_") for name in names - sys.stdlib_module_names - {"nextpixel"}}
    tools = {"setuptools", "hypothesis", "pytest", "pytest_xdist", "ruff"}
    assert imported == declared - tools


@pytest.mark.parametrize("verb", [["sample", "-n", "1", "--out"], ["evaluate", "--csv"]])
def test_verbs_of_a_trained_model_import_no_training_code(verb, tmp_path):
    torch.manual_seed(0)
    experiment = make_experiment({**read_recipe("digits"), "model": {"name": "pixelcnn", "features": 4, "blocks": 1}})
    splits = load(experiment.data, progress=False)
    model = PixelCNN(splits.train.shape, levels=splits.train.levels, features=4, blocks=1)
    experiment.save(tmp_path / "config.yaml")
    PixelMarginal.fit(splits.train).save(tmp_path / "marginal.npz")
    model.save(tmp_path / "model")
    argv = [verb[0], str(tmp_path), *verb[1:], str(tmp_path / ("x.csv" if verb[0] == "evaluate" else "x.npy"))]
    code = f"""if 1:
        import sys
        from nextpixel.cli import main
        assert main({argv!r}) == 0
        heavy = ("nextpixel.training", "nextpixel.reports", "lightning_fabric", "torch._dynamo", "matplotlib", "datasets")
        heavy += ("sympy",)  # by torch's compiler
        print([name for name in heavy if name in sys.modules])"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.splitlines()[-1:] == ["[]"], run.stderr
