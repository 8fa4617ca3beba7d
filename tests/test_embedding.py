"""Embeddings: the network, its mined triplets, batches, splits by identity, verification, and the runs of all that."""

import csv
import itertools
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from runs import last, raised_at, same_bits
from sklearn.metrics import roc_auc_score

import nextpixel
from nextpixel.cli import main
from nextpixel.data.images import Images
from nextpixel.data.raw import RawImages
from nextpixel.data.settings import DataSettings
from nextpixel.data.splits import load_source
from nextpixel.errors import InputError
from nextpixel.identities.images import EmbeddedImages, describe_single, load_by_identity
from nextpixel.identities.network import EmbeddingNetwork, embed_images, load_embedding, save_embedding
from nextpixel.identities.report import RIGHT, WRONG, draw_neighbours
from nextpixel.identities.triplets import IdentityBatches, TripletLoss, Triplets, train_embedding
from nextpixel.identities.verification import RESAMPLES, Pairs, Verification, make_pairs, nearest, verify
from nextpixel.recipes import make_experiment, read_experiment, read_recipe
from nextpixel.recipes.settings import TrainingSettings, TripletSettings
from nextpixel.training.objective import Likelihood
from nextpixel.training.signals import Interrupted

TINY = "--model.features 8 --model.dim 8 --training.epochs 1 --training.ema 0"


def network(**changes):
    torch.manual_seed(0)
    return EmbeddingNetwork(**{"shape": (1, 8, 8), "levels": 17, "dim": 8, "features": 8, "stages": 2, **changes}).eval()


def labelled(labels, levels=17, training=False, shape=(1, 8, 8), names=None, settings=None):
    labels = np.array(labels)
    x = np.random.default_rng(0).integers(levels, size=(len(labels), *shape)).astype(np.uint8)
    settings = settings or DataSettings(source="mine", levels=levels)
    return Images(RawImages(x, labels, names, levels), settings, training, "train")


# --- network and storage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 9, 13), (2, 32, 32)])
@pytest.mark.parametrize("stages", [1, 4])
def test_any_image_from_8x8_up_becomes_a_unit_vector(channels, height, width, stages):
    net = network(shape=(channels, 8, 8), stages=stages)
    x = torch.randint(17, (5, channels, height, width))
    vectors = net.embed(x)
    assert vectors.shape == (5, 8)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    # An embedding is the image's own: no statistics of the batch.
    torch.testing.assert_close(net.embed(x[2:3]), vectors[2:3], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)


def test_gradients_reach_every_parameter():
    net = network(dropout=0.1).double().train()
    x = torch.randint(17, (6, 1, 8, 9))
    TripletLoss(margin=1.0, mining="all")(net(x), torch.tensor([0, 0, 1, 1, 2, 2])).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad != 0).any(), name


def test_vectors_are_float32_under_autocast_and_float64_in_a_wide_network():
    x = torch.randint(17, (2, 1, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        narrow = network()(x)
    assert narrow.dtype == torch.float32
    assert ((narrow.norm(dim=1) - 1).abs() < 1e-6).all()
    assert network().double()(x).dtype == torch.float64


def test_saved_networks_are_loaded_from_every_folder_that_may_hold_them(tmp_path):
    net, x = network(dropout=0.25), torch.randint(17, (3, 1, 8, 8))
    save_embedding(net, tmp_path / "run" / "model", notes="seen")
    for folder in (tmp_path / "run", tmp_path / "run" / "model"):
        again = nextpixel.load_embedding(folder)
        assert not again.training
        assert again.config == net.config
        assert torch.equal(again.embed(x), net.embed(x))
    assert (tmp_path / "run" / "model" / "README.md").read_text().endswith("\nseen\n")
    # The run of a model that is conditioned on embeddings: its own model lies in model/, the network beside it.
    model = nextpixel.GatedPixelCNN(shape=(1, 8, 8), levels=2, features=4, blocks=1, condition=nextpixel.Vector(8))
    model.save(tmp_path / "conditional" / "model")
    with pytest.raises(InputError, match="is a 'gated-pixelcnn' model: expected one of embedding"):
        load_embedding(tmp_path / "conditional")
    save_embedding(net, tmp_path / "conditional" / "embedding")
    assert torch.equal(load_embedding(tmp_path / "conditional").embed(x), net.embed(x))
    assert nextpixel.load(tmp_path / "conditional").name == "gated-pixelcnn"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shape": (1, 8)}, r"shape must be \(channels, height, width\)"),
        ({"levels": 1}, "levels must be from 2 to 65536, not 1"),
        ({"dim": 0}, "dim must be at least 1, not 0"),
        ({"dropout": 1.0}, "dropout must be from 0"),
    ],
)
def test_networks_that_cannot_be_built(wrong, message):
    with pytest.raises(InputError, match=message):
        network(**wrong)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.long), r"must be \(B, 1, H, W\) with H and W from 8 up, not \(2, 3, 8, 8\)"),
        (torch.zeros(2, 1, 8, 7, dtype=torch.long), r"not \(2, 1, 8, 7\)"),
        (torch.zeros(2, 1, 8, 8), "must be integers 0..16, not torch.float32"),
        (torch.full((2, 1, 8, 8), 17), r"must have symbols 0..16, but these have 17..17"),
    ],
)
def test_images_that_cannot_be_embedded(x, message):
    with pytest.raises(InputError, match=message):
        network().embed(x)


# --- triplets and batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mining", ["semi-hard", "hard", "all"])
def test_mined_triplets_and_loss_follow_their_definition(mining):
    generator = torch.Generator().manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(14, 3, dtype=torch.float64, generator=generator), dim=1)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4, 5, 5])
    margin, expected, losses = 0.4, set(), []
    for a, p, n in itertools.product(range(14), repeat=3):
        if a == p or labels[a] != labels[p] or labels[a] == labels[n]:
            continue
        near, far = ((vectors[a] - vectors[k]).square().sum().item() for k in (p, n))
        semi, hard = near < far <= near + margin, far <= near
        if {"semi-hard": semi, "hard": hard, "all": semi or hard}[mining]:
            expected.add((a, p, n))
            losses.append(near - far + margin)
    loss = TripletLoss(margin, mining)
    found = set(zip(*(part.tolist() for part in loss.mine(vectors, labels)), strict=True))
    assert found == expected
    assert 3 < len(expected) < 400
    assert loss(vectors, labels).item() == pytest.approx(np.mean(losses), rel=1e-9)
    assert loss.mined == len(expected)


def test_a_batch_without_triplets_has_the_loss_0_and_gradients():
    vectors = torch.eye(4)[[0, 0, 1, 1]].requires_grad_()
    loss = TripletLoss(margin=0.2)(vectors, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == 0
    assert (vectors.grad == 0).all()


def test_batches_hold_identities_times_images():
    labels = torch.tensor([k % 10 for k in range(60)] + [10, 10, 11])
    batches = IdentityBatches(labels, batch_size=12, images_per_identity=3, seed=5)
    epoch = batches.batches(0)
    assert [len(batch) for batch in epoch] == [12] * 5
    for batch in epoch:
        assert len(set(batch)) == 12, "an image stands twice in a batch"
        counts = labels[batch].unique(return_counts=True)[1]
        assert counts.max() == 3
        assert 11 not in labels[batch], "an identity with one image has no positive"
    assert batches.batches(0) == epoch
    assert batches.batches(1) != epoch
    # Processes draw different batches, fewer each: image r of process k stands at 2 r + k.
    both = IdentityBatches(labels, 12, 3, seed=5, processes=2).batches(0)
    assert [len(batch) for batch in both] == [24] * 2
    for batch in both:
        assert batch[::2] != batch[1::2]
        assert all(len(set(own)) == 12 for own in (batch[::2], batch[1::2]))
    # Identities count equally, however many images they have.
    uneven = torch.tensor([0] * 500 + [1, 1, 2, 2, 3, 3])
    drawn = uneven[IdentityBatches(uneven, batch_size=4, images_per_identity=2).batches(0)]
    assert 0.15 < (drawn == 0).double().mean() < 0.35


@pytest.mark.parametrize(
    ("labels", "batch", "each", "message"),
    [
        ([0, 0, 1, 1], 4, 1, "1 images per identity in batches of 4: expected at least 2 images of each of at least 2"),
        ([0, 0, 1, 1, 2, 2], 8, 2, "there are 3 identities with at least two images, which give 6"),
        ([0, 0, 0, 0, 1, 2], 4, 2, "there are 1 identities with at least two images"),
    ],
)
def test_batches_that_cannot_be_filled(labels, batch, each, message):
    with pytest.raises(InputError, match=message) as error:
        IdentityBatches(torch.tensor(labels), batch, each)
    assert "\n" not in str(error.value)


# --- identities of the splits ------------------------------------------------------------------------------------------------


def test_splits_share_no_identity_and_lose_no_image():
    settings = DataSettings(source="digits-identities", levels=17, validation=0.1, test=0.2, seed=3)
    splits = load_by_identity(settings, progress=False)
    identities = [set(splits[name].labels.tolist()) for name in ("train", "validation", "test")]
    assert [len(own) for own in identities] == [1797 - 180 - 359, 180, 359]
    assert len(set.union(*identities)) == 1797
    assert sum(len(splits[name]) for name in splits) == 1797 * 8
    assert splits.train.training
    assert not splits.test.training
    other = load_by_identity(DataSettings(source="digits-identities", levels=17, seed=4), progress=False)
    assert set(other.test.labels.tolist()) != identities[2]


def test_the_orientations_of_a_digit_are_its_images():
    raw = load_source("digits-identities", DataSettings(levels=17))["all"]
    digits = load_source("digits", DataSettings(levels=17))["all"].images
    own = raw.images[raw.labels == 100]
    found = {image.tobytes() for image in own}
    for k in range(4):
        turned = np.rot90(digits[100, 0], k)
        assert {np.ascontiguousarray(turned).tobytes(), np.ascontiguousarray(turned[:, ::-1]).tobytes()} <= found
    assert len(found) == 8


def save_npz(path, **labels):
    arrays = {}
    for name, own in labels.items():
        arrays[name] = np.random.default_rng(len(name)).integers(17, size=(len(own), 8, 8)).astype(np.uint8)
        arrays[f"{name}_label"] = np.array(own)
    np.savez(path, **arrays)
    return str(path)


def test_splits_of_the_source_are_kept_if_they_are_disjoint(tmp_path):
    source = save_npz(tmp_path / "a.npz", train=[0, 0, 1, 1, 2, 2, 3, 3], test=[4, 4, 5, 5, 6])
    splits = load_by_identity(DataSettings(source=source, levels=17, validation=0.5), progress=False)
    assert sorted(set(splits.test.labels.tolist())) == [4, 5, 6]
    assert len(set(splits.train.labels.tolist()) | set(splits.validation.labels.tolist())) == 4
    assert describe_single(splits.test) == "1 of 3 test identities has a single image and forms no pair of the same identity: 6"
    assert describe_single(splits.train) == ""


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": [0, 0, 1, 1, 2, 2, 3, 3], "test": [3, 4, 4, 5, 5]}, r"share 1 identities \(3\): an embedding is verified on"),
        ({"train": [7] * 20}, "the train split of .* but it has 1 identities"),
        ({"train": [0, 0, 1, 1, 2, 2, 3, 3], "test": [4, 5, 6]}, "3 of 3 test identities have a single image each .*: 4, ..."),
        ({"train": list(range(20))}, "identities have a single image each and form no pair of the same identity"),
    ],
)
def test_identities_that_are_refused(parts, message, tmp_path):
    source = save_npz(tmp_path / "a.npz", **parts)
    with pytest.raises(InputError, match=message) as error:
        load_by_identity(DataSettings(source=source, levels=17, validation=0.5, test=0.25), progress=False)
    assert "\n" not in str(error.value)


# --- verification ------------------------------------------------------------------------------------------------------------


def by_hand(same, scores):
    """Pairs whose identities are (k, k) or (k, k + 1)."""
    count = np.arange(len(same))
    return Verification("hand", np.array(scores, float), Pairs(count, count, np.stack([count, count + ~np.array(same)], axis=1)))


def test_area_and_equal_error_rate_by_hand():
    same = np.array([True, True, True, True, False, False, False, False])
    # Accepting the best three takes 2 of 4 right ones and 1 of 4 wrong ones; the best five, 3 and 2; ...
    found = by_hand(same, [9, 8, 6, 3, 7, 5, 2, 1])
    # Of 16 comparisons the right ones win 4 + 4 + 3 + 2.
    assert found.roc_auc == pytest.approx(13 / 16)
    assert found.equal_error_rate == pytest.approx(1 / 4)
    ties = by_hand(same[[0, 1, 4, 5]], [2, 1, 1, 0])
    assert ties.roc_auc == pytest.approx(3.5 / 4)
    # The curve goes from (0, 1/2) to (1/2, 1): it crosses the diagonal at (1/4, 3/4).
    assert ties.equal_error_rate == pytest.approx(1 / 4)


def test_perfect_random_and_inverted_scores():
    same = np.random.default_rng(0).random(20_000) < 0.3
    assert (by_hand(same, same).roc_auc, by_hand(same, same).equal_error_rate) == (1, 0)
    assert (by_hand(same, ~same).roc_auc, by_hand(same, ~same).equal_error_rate) == (0, 1)
    assert (by_hand(same, same * 0).roc_auc, by_hand(same, same * 0).equal_error_rate) == (0.5, 0.5)
    random = by_hand(same, np.random.default_rng(1).random(20_000))
    assert random.roc_auc == pytest.approx(0.5, abs=0.02)
    assert random.equal_error_rate == pytest.approx(0.5, abs=0.02)


def test_the_area_is_that_of_scikit_learn():
    generator = np.random.default_rng(2)
    same, scores = generator.random(500) < 0.5, generator.integers(0, 20, 500)
    found = by_hand(same, scores + 5 * same)
    assert found.roc_auc == pytest.approx(roc_auc_score(same, scores + 5 * same), abs=1e-12)
    wrong_same, wrong_other = (found.scores[same], found.scores[~same])
    mistakes = [((wrong_other >= t).mean(), (wrong_same < t).mean()) for t in range(30)]
    assert min(max(pair) for pair in mistakes) >= found.equal_error_rate >= max(min(pair) for pair in mistakes)


def test_standard_errors_are_those_of_other_people():
    """Scores that hang on the identity alone: the error must follow the number of identities, not that of the pairs."""

    def draw(seed, people=20):
        generator = np.random.default_rng(seed)
        pairs = make_pairs(np.repeat(np.arange(people), 8), most=2000)
        quality = generator.normal(size=people)
        scores = 1.5 * pairs.same + quality[pairs.identities].mean(axis=1) + 0.1 * generator.normal(size=len(pairs.first))
        return Verification("people", scores, pairs)

    drawn = [draw(seed) for seed in range(30)]
    spread = np.std([(one.roc_auc, one.equal_error_rate) for one in drawn], axis=0, ddof=1)
    reported = np.mean([one.standard_errors for one in drawn[:4]], axis=0)
    assert reported == pytest.approx(spread, rel=0.5)
    naive = np.sqrt(drawn[0].roc_auc * (1 - drawn[0].roc_auc) / 560)
    assert reported[0] > 1.5 * naive
    assert np.isnan(by_hand(np.array([True, False]), [1, 0]).standard_errors).tolist() == [False, False]
    two = make_pairs(np.array([0, 0, 1, 1]))
    assert np.isnan(Verification("two", np.zeros(len(two.first)), two).standard_errors).all()


def test_a_resample_counts_pairs_as_often_as_their_people():
    """The slow reference: write down every pair of every pair of copies of the people drawn."""
    labels = np.repeat(np.arange(5), 3)
    pairs = make_pairs(labels, most=60)
    scores = np.random.default_rng(1).normal(size=len(pairs.first)) + pairs.same
    generator, areas = np.random.default_rng(0), []
    while len(areas) < RESAMPLES:
        people = generator.integers(5, size=5)
        copies = [
            k
            for k, (one, other) in enumerate(pairs.identities)
            for a, b in itertools.product(range(5), repeat=2)
            if (people[a], people[b]) == (one, other) and (one != other or a == b)
        ]
        if 0 < pairs.same[copies].sum() < len(copies):
            areas.append(roc_auc_score(pairs.same[copies], scores[copies]))
    assert Verification("reference", scores, pairs).standard_errors[0] == pytest.approx(np.std(areas, ddof=1), rel=1e-9)


def test_pairs_are_what_they_say():
    labels = np.array([5] * 300 + [1] * 10 + [2] * 10 + [9])
    pairs = make_pairs(labels, most=300)
    assert (labels[pairs.first] == pairs.identities[:, 0]).all()
    assert (labels[pairs.second] == pairs.identities[:, 1]).all()
    assert (pairs.first != pairs.second).all()
    both = {tuple(sorted(pair)) for pair in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)}
    assert len(both) == len(pairs.first)
    own = pairs.identities[pairs.same][:, 0]
    # A hundred of 44850 pairs of the many images, all 45 of each of the others.
    assert {name: int((own == name).sum()) for name in np.unique(own)} == {1: 45, 2: 45, 5: 100}
    different = pairs.identities[~pairs.same]
    assert 200 < len(different) <= 300
    assert 0.3 < (different == 5).any(axis=1).mean() < 0.75, "the identity with most images decides"
    again = make_pairs(labels, most=300)
    assert (again.first == pairs.first).all()
    assert (again.second == pairs.second).all()


@pytest.mark.parametrize(
    ("labels", "message"), [([3] * 5, "all 5 images are of one identity"), ([1, 2, 3], "no identity has two images")]
)
def test_labels_that_cannot_be_verified(labels, message):
    with pytest.raises(InputError, match=f"verification needs two identities, .* but {message}"):
        make_pairs(np.array(labels))


def test_scores_are_negative_squared_distances_of_vectors_and_of_symbols():
    images, net = labelled([0, 0, 1, 1, 2]), network()
    own, pixels = verify(net, images, progress=False)
    x, vectors = images.tensor(), net.embed(images.tensor())
    for k, (i, j) in enumerate(zip(own.pairs.first, own.pairs.second, strict=True)):
        assert own.scores[k] == pytest.approx(-(vectors[i] - vectors[j]).square().sum().item(), abs=1e-5)
        assert pixels.scores[k] == -(x[i] - x[j]).square().sum().item()
    torch.testing.assert_close(embed_images(net, images, batch_size=2, progress=False), vectors, rtol=1e-4, atol=1e-5)
    net.train()
    embed_images(net, images, progress=False)
    assert net.training


def test_networks_and_images_that_do_not_fit():
    with pytest.raises(InputError, match="the embedding network is for 17 levels, the data have 4"):
        verify(network(), labelled([0, 0, 1, 1], levels=4), progress=False)
    with pytest.raises(InputError, match=r"images to embed must be \(B, 1, H, W\)"):
        verify(network(), labelled([0, 0, 1, 1], shape=(3, 8, 8)), progress=False)
    raw = RawImages(np.zeros((4, 1, 8, 8), dtype=np.uint8), None, None, 17)
    with pytest.raises(InputError, match="mine has no labels: an embedding is learned from the identity in each image"):
        verify(network(), Images(raw, DataSettings(source="mine", levels=17)), progress=False)


def test_the_gallery_frames_right_and_wrong_neighbours(tmp_path):
    images = labelled([0, 0, 1, 1, 2])
    vectors = torch.tensor([[0.0], [0.1], [5.0], [9.0], [5.1]])
    # 0 -> 1 (right), 2, ...; 2 -> 4 (wrong), 3 (right), ...
    assert nearest(vectors, torch.tensor([0, 2]), 2).tolist() == [[1, 2], [4, 3]]
    draw_neighbours(images, vectors, tmp_path / "n.png")
    picture = np.asarray(Image.open(tmp_path / "n.png"))
    side = (picture.shape[1] - 2) // 5
    frames = [[tuple(picture[2 + row * side, 2 + column * side]) for column in range(1, 5)] for row in range(2)]
    assert frames == [[RIGHT, WRONG, WRONG, WRONG], [WRONG, RIGHT, WRONG, WRONG]]


# --- images with embeddings --------------------------------------------------------------------------------------------------


def test_images_with_the_embedding_of_another_image_of_the_same_identity():
    labels, net = [2, 0, 2, 0, 2, 1, 1], network()
    images = labelled(labels, training=True, settings=DataSettings(source="mine", levels=2, binarize="threshold"))
    raw = images.raw
    pairs = EmbeddedImages(images, net, progress=False)
    all_of_them = torch.arange(7)
    stored = net.embed(torch.from_numpy(raw.images.astype(np.int64)))
    torch.manual_seed(0)
    seen = torch.stack([pairs.embedded(all_of_them) for _ in range(200)])
    assert (seen != all_of_them).all()
    assert (torch.tensor(labels)[seen] == torch.tensor(labels)).all()
    assert set(seen[:, 0].tolist()) == {2, 4}
    # The symbols are the model's, the vectors those of the stored images at the network's levels.
    torch.manual_seed(1)
    expected = pairs.embedded(torch.tensor([4, 0]))
    torch.manual_seed(1)
    x, vectors = pairs.__getitems__([4, 0])
    assert torch.equal(x, images.tensor([4, 0]))
    assert x.max() == 1
    torch.testing.assert_close(vectors, stored[expected], rtol=1e-4, atol=1e-5)
    fixed = EmbeddedImages(Images(raw, images.settings, split="test"), net, progress=False)
    assert fixed.embedded(all_of_them).tolist() == [2, 3, 4, 1, 0, 6, 5]
    assert (fixed[4][1] == fixed.vectors[0]).all()
    itself = EmbeddedImages(images, net, of="itself", progress=False)
    assert itself.embedded(all_of_them).tolist() == list(range(7))
    assert (len(itself), itself.dim, itself.shape, itself.levels) == (7, 8, (1, 8, 8), 2)


def test_images_that_have_no_other_of_their_identity():
    single = labelled([0, 0, 1], names=["Ada", "Bob"])
    with pytest.raises(InputError, match=r"1 of 2 train identities has a single image .*: Bob; there is no other image to embed"):
        EmbeddedImages(single, network(), progress=False)
    assert len(EmbeddedImages(single, network(), of="itself", progress=False)) == 3
    with pytest.raises(InputError, match="of must be itself or other, not 'another'"):
        EmbeddedImages(single, network(), of="another")


def test_a_model_learns_from_images_with_embeddings():
    pairs = EmbeddedImages(labelled([0, 0, 1, 1], levels=17), network(), progress=False)
    model = nextpixel.GatedPixelCNN(shape=pairs.shape, levels=17, features=8, blocks=1, condition=nextpixel.Vector(pairs.dim))
    objective = Likelihood(model, TrainingSettings())
    batch = pairs.__getitems__([0, 1, 2, 3])
    objective.bits_per_dim(batch).backward()
    weights = [p for name, p in model.named_parameters() if tuple(p.shape[1:2]) == (pairs.dim,) and p.grad.abs().sum() > 0]
    assert weights
    swapped = objective.bits_per_dim((batch[0], batch[1].flip(0)))
    assert swapped.item() != pytest.approx(objective.bits_per_dim(batch).item(), abs=1e-9)


# --- runs --------------------------------------------------------------------------------------------------------------------


def tiny(**training):
    recipe = read_recipe("digits-identity")
    recipe["model"] = {"name": "embedding", "dim": 8, "features": 8, "stages": 2}
    recipe["data"] = {**recipe["data"], "validation": 0.03, "test": 0.1, "seed": 1}
    recipe["training"] = {**recipe["training"], "epochs": 1, "precision": "float32", **training}
    return make_experiment(recipe)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "identity"
    return train_embedding(tiny(), out, console=Console(quiet=True)), out


def test_training_tells_unseen_identities_apart_and_pixels_do_not(finished):
    (own, unaveraged, pixels), _ = finished
    assert own.roc_auc > 0.97
    assert own.equal_error_rate < 0.08
    assert own.roc_auc - 4 * own.standard_errors[0] > pixels.roc_auc + 4 * pixels.standard_errors[0]
    assert 0.45 < pixels.roc_auc < 0.6
    assert unaveraged.roc_auc > 0.9
    untrained = verify(EmbeddingNetwork((1, 8, 8), 17, 8, 8, 2), load_by_identity(tiny().data).test, progress=False)[0]
    assert untrained.roc_auc < 0.7


def test_a_run_leaves_everything_behind(finished):
    (own, *_), out = finished
    for name in ("config.yaml", "metrics.csv", "report.md", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert (out / name).stat().st_size > 0
    for name in ("roc", "neighbours"):
        assert Image.open(out / "samples" / f"{name}.png").size[0] >= 64
    report = (out / "report.md").read_text()
    assert f"{own.roc_auc:.4f} ± {own.standard_errors[0]:.4f}" in report
    assert "pixel distance" in report
    assert "1563 training, 54 validation and 180 test identities, none of them in two splits" in report
    assert own.pairs.describe() in report
    with open(out / "metrics.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["val/roc_auc"]]
    assert len(rows) == 1
    net = load_embedding(out)
    assert json.loads((out / "model" / "config.json").read_text())["model"] == "embedding"
    again = verify(net, load_by_identity(read_experiment(out / "config.yaml").data).test, progress=False)[0]
    assert again.roc_auc == pytest.approx(own.roc_auc, abs=1e-6)
    assert read_experiment(out / "config.yaml") == tiny()


def test_evaluate_and_other_verbs_on_such_a_run(finished, capsys):
    (own, *_), out = finished
    assert main(["evaluate", str(out)]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"embedding +{own.roc_auc:.4f} ± ", printed)
    assert own.pairs.describe() in printed
    assert main(["evaluate", str(out), "--data", "digits"]) == 0
    assert "10 identities" in capsys.readouterr().out
    for command, message in (
        (["evaluate", out, "--csv", "x.csv"], "--csv x.csv is for likelihoods"),
        (["sample", out], "is a 'embedding' model: expected one of pixelcnn"),
    ):
        assert main([str(word) for word in command]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


def test_ctrl_c_and_resume(tmp_path, monkeypatch):
    few, runs = tiny(), [tmp_path / "whole", tmp_path / "cut"]
    few.data.limit = 2000
    train_embedding(few, runs[0], console=Console(quiet=True), report="none")
    message = rf"saved to .*nextpixel train --out {runs[1]} --resume"
    with raised_at(monkeypatch, Triplets, "forward", when=5), pytest.raises(Interrupted, match=message):
        train_embedding(few, runs[1], console=Console(quiet=True), report="none")
    again = read_experiment(runs[1] / "config.yaml")
    assert train_embedding(again, runs[1], resume=True, console=Console(quiet=True), report="none") is None
    assert same_bits(*map(last, runs))


def test_the_command_line_from_end_to_end(tmp_path, capsys):
    source = save_npz(tmp_path / "a.npz", train=[k // 4 for k in range(96)] + [99], test=[200, 200, 201, 201, 202])
    out = tmp_path / "run"
    settings = f"--training.batch_size 16 --data {source} --out {out}"
    assert main(f"train digits-identity {TINY} {settings}".split()) == 0
    printed = capsys.readouterr().out
    for word in ("ROC AUC", "pixel distance", "roc.png", "neighbours.png", "report.md", "identity: 202"):
        assert word in printed
    assert "1 of 3 test identities has a single image" in (out / "report.md").read_text()
    assert load_embedding(out).dim == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--training.stage 0", "--training.stage is for likelihood models"),
        ("--training.start runs/x", "--training.start is for likelihood models"),
        ("--training.condition_dropout 0.1", "--training.condition_dropout is for likelihood models"),
        ("--training.images_per_identity 1", "--training.images_per_identity is 1: expected at least 2"),
        ("--training.batch_size 6", "--training.batch_size is 6: expected at least two identities of 4 images"),
        ("--training.margin 4", "--training.margin is 4.0: expected a number between 0 and 4"),
        ("--training.mining soft", "training.mining"),
        ("--model.condition labels", "condition"),
        ("--model.dim 0", "embedding: dim must be at least 1, not 0"),
        ("--data digits --data.validation 0.1", "needs two identities, .* but it has 1 identities"),
        ("--data {plain}", "plain.npy has no labels: an embedding is learned from the identity in each image"),
        ("--data {small}", r"has images \(1, 7, 8\): an embedding needs at least 8 rows and columns"),
    ],
)
def test_bad_commands(options, message, tmp_path, capsys):
    np.save(tmp_path / "plain.npy", np.zeros((9, 8, 8), dtype=np.uint8))
    np.savez(tmp_path / "small.npz", images=np.zeros((40, 7, 8), dtype=np.uint8), labels=np.arange(40) // 2)
    options = options.format(plain=tmp_path / "plain.npy", small=tmp_path / "small.npz")
    assert main(f"train digits-identity {TINY} {options} --out {tmp_path / 'run'}".split()) == 2
    err = capsys.readouterr().err
    assert re.search(message, err), err
    assert err.count("\n") == 1
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_settings_of_triplets_are_not_those_of_likelihoods():
    with pytest.raises(TypeError):
        TrainingSettings(margin=0.2)
    TripletSettings().check()
