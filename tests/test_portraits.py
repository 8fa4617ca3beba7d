"""Models conditioned on embeddings: pairs of image and vector, runs that keep the network, and the likeness of what they draw."""

import csv
import shutil

import numpy as np
import pytest
import torch
from rich.console import Console

import nextpixel
from nextpixel.cli import main
from nextpixel.conditions import default_cond
from nextpixel.data.images import Images
from nextpixel.data.raw import RawImages
from nextpixel.data.settings import DataSettings
from nextpixel.errors import InputError
from nextpixel.identities.images import EmbeddedImages, as_seen_by, embedding_network, load_embedded
from nextpixel.identities.likeness import Likeness, _shares, draw_portraits, to_levels
from nextpixel.identities.network import EmbeddingNetwork, embed_images, kept_embedding, load_embedding, save_embedding
from nextpixel.likelihood_run import train
from nextpixel.recipes import Experiment, make_experiment, read_recipe
from nextpixel.scoring.evaluation import evaluate

TINY = "--model.features 8 --model.blocks 2 --model.head_features 8 --training.epochs 1 --training.sample_every 1"


def network(**changes):
    torch.manual_seed(0)
    return EmbeddingNetwork(**{"shape": (1, 8, 8), "levels": 17, "dim": 8, "features": 8, "stages": 2, **changes}).eval()


def people(labels, levels=17, noise=1, **settings):
    """Images of identities that differ more from each other than from themselves."""
    labels, generator = np.array(labels), np.random.default_rng(0)
    faces = generator.integers(noise, levels - noise, size=(labels.max() + 1, 1, 8, 8))
    x = faces[labels] + generator.integers(-noise, noise + 1, size=(len(labels), 1, 8, 8))
    return Images(RawImages(x.astype(np.uint8), labels, None, levels), DataSettings(source="mine", levels=levels, **settings))


def table(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- images with vectors -----------------------------------------------------------------------------------------------------


def test_images_with_vectors_are_images(tmp_path):
    images = people([0, 0, 1, 1, 2, 2])
    pairs = EmbeddedImages(images, network(), progress=False)
    assert torch.equal(pairs.tensor(), images.tensor())
    assert pairs.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert pairs[3][1].shape == (8,)
    assert torch.equal(pairs[3][1], pairs.vectors[2])
    model = nextpixel.GatedPixelCNN((1, 8, 8), levels=17, features=8, blocks=1, condition=nextpixel.Vector(8)).eval()
    evaluation = evaluate(model, pairs, batch_size=4, progress=False)
    x, vectors = pairs.__getitems__(range(6))
    np.testing.assert_allclose(evaluation.nats, -model.log_prob(x, vectors).detach().numpy(), rtol=1e-5)
    # In the table of images stands whose they are, not the vector.
    evaluation.write_csv(tmp_path / "e.csv")
    assert [row["label"] for row in table(tmp_path / "e.csv")] == ["0", "0", "1", "1", "2", "2"]


def test_a_network_sees_the_stored_images_at_its_own_levels():
    images = people([0, 0, 1, 1], levels=256, noise=3)
    half = Images(images.raw, DataSettings(levels=2, binarize="threshold", flip=True), True, indices=np.array([3, 1, 2]))
    seen = as_seen_by(network(levels=256), half, torch.tensor([2, 0]))
    assert torch.equal(seen.tensor(), torch.from_numpy(images.raw.images[[2, 3]].astype(np.int64)))
    assert torch.equal(as_seen_by(network(levels=4), half).tensor(), torch.from_numpy(images.raw.images[[3, 1, 2]] // 64).long())


def test_splits_with_vectors_share_no_identity():
    net, settings = network(), DataSettings(source="digits-identities", levels=17, validation=0.2, test=0.3, seed=3)
    splits = load_embedded(settings, net, progress=False)
    identities = [set(splits[name].labels.tolist()) for name in ("train", "validation", "test")]
    assert sum(map(len, identities)) == len(set.union(*identities)) == 1797
    assert splits.train.training
    assert not splits.test.training
    x = splits.test.tensor([5])
    torch.testing.assert_close(splits.test.vectors[5], net.embed(x)[0], rtol=1e-4, atol=1e-5)


# --- likeness -------------------------------------------------------------------------------------------------------------------


def test_shares_are_those_of_plain_loops():
    vectors, references = torch.randn(5, 3, 4), torch.randn(5, 4)
    vectors[2, 1], references[4] = references[0], references[0]  # ties between two identities
    expected = []
    for a in range(5):
        nearer = []
        for k in range(3):
            own, *others = ((vectors[a, k] - references[b]).norm() for b in (a, *(b for b in range(5) if b != a)))
            nearer += [1.0 if own < other else 0.5 if own == other else 0.0 for other in others]
        expected.append(np.mean(nearer))
    np.testing.assert_allclose(_shares(vectors, references), expected, atol=1e-12)
    line = Likeness("of these", np.array([0.5, 1.0]))
    assert (line.share, line.standard_error) == (0.75, pytest.approx(0.25))


class Copyist:
    """Draws, for the vector of each image that it knows, an image that it has been told to draw."""

    def __init__(self, net, images, answers, levels=17):
        self.vectors, self.answers, self.levels = embed_images(net, images, progress=False), answers, levels

    def sample(self, n, cond, seed, guidance):
        assert cond.shape == (n, self.vectors.shape[1])
        return self.answers[torch.cdist(cond, self.vectors).argmin(1)]


def test_likeness_is_1_for_copies_of_the_photograph_that_it_is_measured_by():
    images, net = people(np.arange(12) // 2), network()
    answers = images.tensor().view(6, 2, 1, 8, 8).flip(1)  # of each image the other one of its identity
    copyist = Copyist(net, images, answers.flatten(0, 1))
    portraits = draw_portraits(copyist, net, images, number=3)
    assert portraits.given.tolist() == [0, 2, 4, 6, 8, 10]
    assert portraits.reference.tolist() == [1, 3, 5, 7, 9, 11]
    assert torch.equal(portraits.drawn, images.tensor()[1::2, None].expand(-1, 3, -1, -1, -1))
    drawn, given, other = portraits.likeness
    assert drawn.shares.tolist() == [1] * 6
    assert 0.5 < given.share <= 1
    # The image of a neighbour equals the neighbour's reference: nearer to one of five others than to the wanted one at least.
    assert other.shares.max() < 0.8 + 1e-9
    false = Copyist(net, images, answers.roll(1, 0).flatten(0, 1))
    np.testing.assert_allclose(draw_portraits(false, net, images, number=1).likeness[0].shares, other.shares)


def test_copies_of_the_given_photograph_are_as_like_as_it_is_at_any_levels_and_by_another_judge():
    images, net = people(np.arange(12) // 2, levels=256, noise=40), network(levels=256)
    coarse = Images(images.raw, DataSettings(levels=8), indices=np.arange(12))
    copyist = Copyist(net, images, coarse.tensor(), levels=8)
    by_itself = draw_portraits(copyist, net, coarse, number=2).likeness
    assert by_itself[0].shares.tolist() == by_itself[1].shares.tolist()
    torch.manual_seed(7)
    judge = EmbeddingNetwork((1, 8, 8), levels=8, dim=3, features=8).eval()
    by_another = draw_portraits(copyist, net, coarse, judge, number=2).likeness
    assert by_another[0].shares.tolist() == by_another[1].shares.tolist()
    expected = _shares(judge.embed(coarse.tensor()[0::2])[:, None], judge.embed(coarse.tensor()[1::2]))
    np.testing.assert_allclose(by_another[0].shares, expected)


def test_symbols_keep_their_place_in_the_range_of_other_levels():
    assert to_levels(torch.arange(17), 17, 17).tolist() == list(range(17))
    assert to_levels(torch.tensor([0, 1]), 2, 256).tolist() == [0, 255]
    assert to_levels(torch.tensor([0, 31]), 32, 256).tolist() == [0, 255]
    assert to_levels(torch.tensor([0, 127, 128, 255]), 256, 2).tolist() == [0, 0, 1, 1]


def test_chosen_identities_are_spread_and_have_two_images():
    images, net = people([0, 1, 1, 2, 3, 3, 4, 4, 5, 5, 6]), network()
    copyist = Copyist(net, images, images.tensor())
    portraits = draw_portraits(copyist, net, images, identities=2, number=1)
    assert (portraits.given.tolist(), portraits.reference.tolist()) == ([1, 6], [2, 7])
    with pytest.raises(InputError, match="likeness needs two identities with two images each, or more"):
        draw_portraits(copyist, net, people([0, 1, 1, 2]))


# --- runs ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedding(tmp_path_factory):
    """A run of an embedding network as `train` leaves it, but untrained."""
    run = tmp_path_factory.mktemp("runs") / "identity"
    save_embedding(network(), run / "model")
    make_experiment(read_recipe("digits-identity")).save(run / "config.yaml")
    return run


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A file of 60 people, and how a run splits it: 40 to learn from, 8 to validate on and 12 to test."""
    path = tmp_path_factory.mktemp("faces") / "faces.npz"
    images = people(np.arange(240) // 4)
    np.savez(path, images=images.raw.images, labels=images.raw.labels, levels=17)
    return {"source": str(path), "validation": 8 / 48, "test": 12 / 60}


@pytest.fixture(scope="module")
def run(embedding, faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "portraits"
    data = f"--data {faces['source']} --data.validation {faces['validation']} --data.test {faces['test']}"
    assert main(f"train digits-portraits {TINY} {data} --data.embedding {embedding} --out {out}".split()) == 0
    return out


def test_a_run_draws_measures_and_keeps_the_network(run, embedding, capsys):
    model, net = nextpixel.load(run), load_embedding(run)
    assert model.condition.config == {"name": "vector", "features": 8}
    assert net.config == network().config
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), load_embedding(embedding).parameters(), strict=True))
    report = (run / "report.md").read_text()
    for words in ("each given the vector of a test image", "## Portraits", "| drawn from one photograph | 0.", "portraits.png"):
        assert words in report
    for name in ("samples", "completions", "portraits", "epoch-0001"):
        assert (run / "samples" / f"{name}.png").is_file()
    assert main(["evaluate", str(run)]) == 0
    printed = capsys.readouterr().out
    figure = next(line for line in report.splitlines() if "**test" in line).split("|")[2].strip()
    assert figure in printed


def test_a_run_is_evaluated_on_other_people(run, tmp_path, capsys):
    images = people([0, 0, 1, 1])
    np.savez(tmp_path / "mine.npz", images=images.raw.images, labels=images.raw.labels, levels=17)
    assert main(["evaluate", str(run), "--data", str(tmp_path / "mine.npz"), "--csv", str(tmp_path / "e.csv")]) == 0
    assert "4 images" in capsys.readouterr().out
    rows = table(tmp_path / "e.csv")
    pairs = EmbeddedImages(images, load_embedding(run), progress=False)
    nats = evaluate(nextpixel.load(run), pairs, progress=False).nats
    np.testing.assert_allclose([float(row["nats"]) for row in rows], nats, rtol=1e-6)


def test_a_run_goes_on_without_the_other_run(run, embedding, faces, tmp_path):
    other, out = tmp_path / "identity", tmp_path / "run"
    shutil.copytree(embedding, other)
    shutil.copytree(run, out)
    recipe = read_recipe("digits-portraits")
    experiment = make_experiment({**recipe, "data": {**recipe["data"], **faces, "embedding": str(other)}})
    assert embedding_network(experiment).dim == 8
    shutil.rmtree(other)
    assert embedding_network(experiment, out).dim == 8
    experiment.model.update(features=8, blocks=2, head_features=8)
    experiment.training.epochs, experiment.training.sample_every = 2, 1
    assert train(experiment, out, resume=True, console=Console(quiet=True)).portraits.drawn.shape == (12, 4, 1, 8, 8)
    shutil.rmtree(out / "embedding")
    with pytest.raises(InputError, match=r"run keeps no embedding network in .*/run/embedding"):
        kept_embedding(out)


def test_the_vector_of_the_image_itself(embedding):
    experiment = Experiment(model={"name": "pixelcnn", "condition": "embedding"})
    experiment.data = DataSettings(source="digits-identities", levels=17, embedding=str(embedding), embedding_of="itself")
    splits = load_embedded(experiment.data, embedding_network(experiment), progress=False)
    assert torch.equal(splits.train.__getitems__([0, 9])[1], splits.train.vectors[[0, 9]])


def test_nobody_can_make_up_a_vector():
    model = nextpixel.PixelCNN((1, 8, 8), levels=17, features=4, blocks=1, condition=nextpixel.Vector(8))
    with pytest.raises(InputError, match="the model draws images like a given one: name one with --like"):
        default_cond(model, 4)
    pairs = EmbeddedImages(people([0, 0, 1, 1]), network(), progress=False)
    assert torch.equal(default_cond(model, 2, pairs), pairs.__getitems__([0, 2])[1])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("digits-portraits --data.embedding null", "--model.condition embedding needs a trained embedding network"),
        ("digits --data.embedding {embedding}", "makes vectors that nothing is conditioned on: give --model.condition embedding"),
        ("digits-portraits --data.embedding {nothing}", "nothing does not exist"),
        ("digits-portraits --data.embedding {likelihood}", "is a 'pixelcnn' model: expected one of embedding"),
        ("digits-portraits --data.embedding {embedding} --data.seed 1", "was trained with --data.seed 0, this run has 1"),
        ("digits-portraits --data.embedding {embedding} --data.test 0.2", "was trained with --data.test 0.1, this run has 0.2"),
        ("digits-portraits --data.embedding {embedding} --data.embedding_of another", "embedding_of"),
        ("digits-portraits --data.embedding {embedding} --data {single}", "single image and forms no pair of the same identity"),
        ("digits-portraits --data.embedding {embedding} --data {colour} --data.levels 256", r"images to embed must be"),
        ("digits-identity --data.embedding {embedding}", "is for likelihood models: this run trains such a network"),
    ],
)
def test_bad_commands(command, message, embedding, tmp_path, capsys):
    likelihood = tmp_path / "likelihood"
    nextpixel.PixelCNN((1, 8, 8), levels=17, features=4, blocks=1).save(likelihood)
    single, colour = tmp_path / "single.npz", tmp_path / "colour.npz"
    labels = np.arange(60) // 2
    np.savez(single, images=np.zeros((61, 8, 8), dtype=np.uint8), labels=np.append(labels, 30), levels=17)
    np.savez(colour, images=np.zeros((60, 3, 8, 8), dtype=np.uint8), labels=labels, levels=256)
    files = {"nothing": tmp_path / "nothing", "likelihood": likelihood, "single": single, "colour": colour}
    command = command.format(embedding=embedding, **files)
    assert main(["train", *command.split(), "--training.epochs", "2", "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert message in err, err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
