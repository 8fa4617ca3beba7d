"""The examples of CONTRIBUTING.md are complete: registered by one line, they keep the contracts that all others keep."""

import re
import sys
import types
from pathlib import Path

import pytest
import test_conditions
import test_contract
import test_likelihoods
from tiny import tiny_model

from nextpixel import MODELS
from nextpixel.conditions import CONDITIONS, Condition
from nextpixel.likelihoods import LIKELIHOODS, Likelihood
from nextpixel.models.base import RasterModel

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def registered(request, monkeypatch):
    """The example of this kind, as the file that the page says, and in its registry."""
    base, registry = request.param
    (code,) = (block for block in BLOCKS if f"({base.__name__}):" in block)
    module = types.ModuleType(f"nextpixel_example_{base.__name__.lower()}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    (found,) = (
        cls
        for cls in vars(module).values()
        if isinstance(cls, type) and cls.__module__ == module.__name__ and issubclass(cls, base)
    )
    monkeypatch.setitem(registry, found.name, found)
    return found


def example(base, registry):
    return pytest.mark.parametrize("registered", [(base, registry)], indirect=True, ids=[base.__name__])


def test_every_block_is_an_example():
    assert len(BLOCKS) == 3


@example(RasterModel, MODELS)
def test_the_architecture_keeps_the_contract(registered, tmp_path):
    name = registered.name
    assert name not in test_contract.MODELS
    for channels, inputs, condition in ((1, "intensity", "none"), (3, "embedding", "combination")):
        test_contract.test_jacobian_is_zero_except_before_the_place(name, channels, inputs, (3, 4))
        test_contract.test_step_is_forward(name, channels, inputs, condition, 3)
        test_contract.test_every_method_draws_the_same_images(name, channels, inputs, condition)
        test_contract.test_gradients_reach_every_parameter_and_no_masked_weight(name, channels, inputs, condition)
        test_contract.test_save_and_load(name, inputs, condition, tmp_path / condition)
    test_contract.test_probabilities_of_all_images_sum_to_1(name, (3, 1, 2, 2), "intensity", "labels")
    test_contract.test_completion_keeps_the_known_and_reads_nothing_else(name, 3, "none", 3)
    test_contract.test_registered_under_its_own_name(name)
    test_contract.test_presets_can_be_built(name, "tiny")
    test_likelihoods.draws_codes_and_saves(tiny_model(name, (3, 3, 4), 5), tmp_path)


@example(Likelihood, LIKELIHOODS)
def test_the_likelihood_keeps_the_contract(registered, tmp_path):
    name = registered.name
    test_likelihoods.test_registered_under_its_own_name(name)
    for levels in (2, 3, 17):
        test_likelihoods.test_pmf_is_a_law_and_log_prob_is_its_logarithm(name, levels, 3)
        test_likelihoods.test_draw_inverts_the_distribution_function(name, levels)
        test_likelihoods.test_symbols_may_have_any_integer_type(name, levels)
        test_likelihoods.test_a_model_draws_codes_and_saves(name, 3, levels, tmp_path / str(levels))
    instructions = [registered(1, levels).draw_instruction(0) for levels in (2, 3)]
    assert [instruction is None for instruction in instructions] == [False, True]


@example(Condition, CONDITIONS)
def test_the_condition_keeps_the_contract(registered, tmp_path):
    test_conditions.test_a_model_draws_codes_and_saves(registered(4), tmp_path)
    for seed in range(4):
        model = tiny_model("gated-pixelcnn", condition=registered(4), seed=seed)
        assert model.condition(2, 1, 3, 4).flatten().tolist() == [1, 1, 1, 0]
    for bad in (4, -1, 0.5, [1, 2, 3]):
        test_conditions.test_bad_input_is_named_in_one_line(registered(4), lambda m, bad=bad: m.sample(2, bad), "rank")
