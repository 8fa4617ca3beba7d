import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import nextpixel
from nextpixel.errors import InputError
from nextpixel.inspection import Context, colour_context, context, draw, mask_experiment, model_context

BEFORE = [(-1, -1), (-1, 0), (-1, 1), (0, -1)]  # what a 3 x 3 kernel sees before its centre


def reachable(layers, height, width, place):
    """The field of a stack of layers, each a list of offsets (rows, columns), by walking back from the place: no derivatives."""
    places = {place}
    for offsets in reversed(layers):
        places = {(i + di, j + dj) for i, j in places for di, dj in offsets}
        places = {(i, j) for i, j in places if 0 <= i < height and 0 <= j < width}
    field = np.zeros((height, width), dtype=bool)
    for at in places:
        field[at] = True
    return field


def stack(layers, features=3, activation=None):
    """Plain convolutions whose 3 x 3 kernels are zero but at the offsets."""
    modules = []
    for k, offsets in enumerate(layers):
        conv = nn.Conv2d(1 if k == 0 else features, features, 3, padding=1).double()
        mask = torch.zeros(3, 3, dtype=torch.float64)
        for di, dj in offsets:
            mask[di + 1, dj + 1] = 1
        conv.weight.data *= mask
        modules += [conv] if activation is None or k == len(layers) - 1 else [conv, activation]
    return nn.Sequential(*modules)


A, B, ALL = BEFORE, [*BEFORE, (0, 0)], [(di, dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("layers", [[A], [A, B, B], [A, A, A], [B, B], [ALL, ALL], [A, ALL]])
@pytest.mark.parametrize("place", [(4, 6), (0, 0), (0, 9), (6, 0), (6, 9)])
def test_the_field_is_what_walking_back_reaches(layers, place):
    measured = context(stack(layers), (1, 7, 10), place)
    assert (measured.reached == reachable(layers, 7, 10, place)).all()


def test_a_masked_stack_has_the_triangular_blind_spot():
    measured = context(stack([A, B, B, B]), (1, 7, 10), (5, 4))
    # Above and to the right the field opens by one column per row; the box is 5 rows high and ends 4 columns to the right.
    expected = {(4, 6), (4, 7), (4, 8), (3, 7), (3, 8), (2, 8)}
    assert set(map(tuple, np.argwhere(measured.blind_spot).tolist())) == expected
    assert measured.leaks.sum() == 0
    assert measured.past.sum() == 5 * 10 + 4
    assert measured.reached.sum() + measured.unreached_past.sum() == measured.past.sum()
    reached = 9 * 4 + 4 - len(expected)
    assert measured.summary() == f"at (5, 4): {reached} of 54 earlier places reached, 6 in the blind spot, 0 leaks"


def test_a_plain_convolution_leaks_at_and_after_the_place():
    measured = context(stack([ALL]), (1, 5, 6), (2, 3))
    assert set(map(tuple, np.argwhere(measured.leaks).tolist())) == {(2, 3), (2, 4), (3, 2), (3, 3), (3, 4)}
    assert measured.summary().endswith("5 leaks")


def test_one_wrong_weight_however_small_is_a_leak():
    network = stack([A, B])
    network[1].weight.data[0, 0, 1, 2] = 1e-30
    assert context(network, (1, 5, 6), (2, 3)).leaks.any()


def test_relus_that_are_often_dead_hide_nothing():
    layers = [A, B, B]
    network = stack(layers, features=16, activation=nn.ReLU())
    network[0].bias.data -= 0.3
    alone = [context(network, (1, 7, 10), (4, 6), samples=1, seed=seed).reached for seed in range(8)]
    field = reachable(layers, 7, 10, (4, 6))
    assert any((one != field).any() for one in alone)  # one input is not enough here
    assert (context(network, (1, 7, 10), (4, 6), samples=32).reached == field).all()


def test_outputs_with_opposite_derivatives_do_not_cancel():
    def network(inputs):
        return torch.cat([inputs, -inputs], dim=1)

    assert context(network, (1, 3, 4), (1, 2)).reached.sum() == 1


def test_the_influence_grows_with_the_derivative():
    def network(inputs):
        return inputs * 1e-3 + 10 * inputs.roll(1, dims=3)

    influence = context(network, (1, 3, 4), (1, 2)).influence
    assert influence[1, 1] == pytest.approx(1e4 * influence[1, 2])


def test_only_lower_colours_of_the_own_place_are_allowed():
    def network(order):
        return lambda inputs: inputs[:, [0, *order[:2]]] * torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)[:, None, None]

    assert context(network([0, 1]), (3, 4, 5), (1, 2), colours=3).leaks.sum() == 0
    assert context(network([0, 1]), (3, 4, 5), (1, 2)).leaks.sum() == 1
    assert context(network([1, 1]), (3, 4, 5), (1, 2), colours=3).leaks.sum() == 1  # G depends on G
    assert context(network([2, 1]), (3, 4, 5), (1, 2), colours=3).leaks.sum() == 1  # G depends on B


def test_what_cannot_be_measured_is_refused():
    network = stack([A])
    for place in [(5, 0), (0, 6), (-1, 0)]:
        with pytest.raises(InputError, match="outside"):
            context(network, (1, 5, 6), place)
    with pytest.raises(InputError, match="3 params and 1 inputs cannot be split into 2"):
        context(network, (1, 5, 6), (2, 3), colours=2)
    network[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        context(network, (1, 5, 6), (2, 3))


MODELS = {
    "PixelCNN": lambda **options: nextpixel.PixelCNN(features=12, blocks=2, **options),
    "GatedPixelCNN": lambda **options: nextpixel.GatedPixelCNN(features=12, blocks=2, **options),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("inputs", ["intensity", "embedding"])
def test_models_use_the_past_and_only_the_past(name, inputs):
    model = MODELS[name](shape=(3, 6, 9), levels=4, inputs=inputs, condition=nextpixel.Labels(5))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    measured = model_context(model, (4, 3), cond=2)
    assert measured.leaks.sum() == 0
    assert measured.reached[4, 2]
    assert measured.reached[3, 3]
    assert (colour_context(model, cond=2) == np.tri(3, k=-1, dtype=bool)).all()
    assert model.training
    assert all(value.dtype == before[key].dtype and torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_past_is_that_of_the_order():
    influence = np.zeros((2, 3))
    influence[1, 2] = 1
    order = np.array([[0, 2, 1], [3, 4, 5]])
    assert Context(influence, (0, 1), order).past.tolist() == [[True, False, True], [False, False, False]]
    assert Context(influence, (0, 1)).past.tolist() == [[True, False, False], [False, False, False]]
    assert Context(influence, (0, 1), order).leaks.sum() == 1
    order[1, 2], order[0, 2] = 1, 5
    assert Context(influence, (0, 1), order).leaks.sum() == 0
    assert Context(influence, (0, 1), order).summary().startswith("at (0, 1): 1 of 2 earlier places reached")


def test_the_past_of_a_multiscale_model_holds_the_whole_small_image():
    model = nextpixel.MultiScale(**{**nextpixel.MultiScale.presets["tiny"], "shape": (1, 6, 9)})
    coarse, fine = model_context(model, (2, 4)), model_context(model, (2, 3))
    assert coarse.past.sum() == 5 + 2  # of the 3 x 5 places of the small image
    assert fine.past.sum() == 3 * 5 + 2 * 9 - 5 + 1  # all of that, and the finer places before
    assert coarse.leaks.sum() == fine.leaks.sum() == 0
    assert fine.reached[4, 4]  # below, on the small image
    assert not fine.reached[2, 5]
    assert (
        colour_context(nextpixel.MultiScale(**{**model.config, "shape": (3, 6, 9)}), (2, 3)).tolist() == np.tri(3, k=-1).tolist()
    )


def test_a_broken_mask_of_a_model_is_seen():
    model = MODELS["PixelCNN"](shape=(3, 6, 9), levels=4)
    model.first.mask.fill_(1)
    assert model_context(model, (4, 3)).leaks[4, 3]
    assert colour_context(model).diagonal().all()


def test_weights_that_are_still_zero_hide_nothing():
    model = MODELS["GatedPixelCNN"](shape=(1, 6, 9), levels=4)
    expected = model_context(model, (4, 3)).reached
    for weight in list(model.parameters())[-2:]:  # the last layer, as some papers start it
        weight.data.zero_()
    assert expected.any()
    assert (model_context(model, (4, 3)).reached == expected).all()


@pytest.mark.parametrize(("layers", "size"), [(1, 5), (3, 7), (4, 9)])
def test_the_mask_experiment_is_what_walking_back_reaches(layers, size):
    contexts = mask_experiment(layers=layers, size=size)
    assert list(contexts) == [f"one mask A, then {layers - 1} mask B", "only mask A", "only mask B (leaks)"]
    place = (size // 2, size // 2)
    for masks, measured in zip([[A] + [B] * (layers - 1), [A] * layers, [B] * layers], contexts.values(), strict=True):
        assert measured.place == place
        assert (measured.reached == reachable(masks, size, size, place)).all()
    assert [int(measured.leaks.sum()) for measured in contexts.values()] == [0, 0, 1]


def test_the_mask_experiment_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    mask_experiment()
    assert torch.equal(state, torch.get_rng_state())


def test_a_picture_is_drawn_for_any_context(tmp_path):
    nothing = Context(np.zeros((4, 9)), (2, 5))
    draw({"nothing": nothing, **mask_experiment()}, tmp_path / "context.png")
    assert min(Image.open(tmp_path / "context.png").size) > 300
    with pytest.raises(InputError):
        draw({}, tmp_path / "none.png")
