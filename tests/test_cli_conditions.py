"""Conditions on the command line: a class and a picture reach each part of a condition, prepared as the run's data are."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model

import nextpixel
from nextpixel import Combination, Encoded, Labels, SpatialMap, Vector
from nextpixel.cli import main
from nextpixel.data.settings import DataSettings
from nextpixel.identities.network import INSIDE, EmbeddingNetwork, save_embedding
from nextpixel.recipes import Experiment, read_experiment

CROP, SIZE = (12, 10), (8, 9)
PREPARED = DataSettings(levels=3, crop=CROP, size=SIZE, grayscale=True)
KINDS = {
    "none": lambda: None,
    "labels": lambda: Labels(4),
    "encoded": lambda: Encoded(3, 4),
    "vector": lambda: Vector(5),
    "spatial-map": lambda: SpatialMap(2),
    "labels+encoded": lambda: Combination(Labels(4), Encoded(3, 4)),
    "vector+labels": lambda: Combination(Vector(5), Labels(4)),
    "labels+map": lambda: Combination(Labels(4), SpatialMap(2)),
    "nested": lambda: Combination(Combination(Encoded(3, 4), Labels(4)), Vector(5)),
}
PICTURES = ("encoded", "vector", "labels+encoded", "vector+labels", "nested")


def network(levels=17, dim=5):
    torch.manual_seed(0)
    return EmbeddingNetwork(shape=(1, *SIZE), levels=levels, dim=dim, features=8, stages=2).double().eval()


def make_run(folder, kind, data=PREPARED, keeps=None, **changes):
    """A run's folder as training leaves it, with a model that nobody has trained."""
    model = tiny_model("gated-pixelcnn", **{"shape": (1, *SIZE), "levels": 3, "condition": KINDS[kind](), **changes})
    model.save(folder / "model")
    if keeps is not None:
        save_embedding(keeps, folder / INSIDE)
    if data is not None:
        Experiment(data=data).save(folder / "config.yaml")
    return model


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Two photographs in colour, and one that has the size and the colours that models want."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(generator.integers(256, size=(14, 13, 3), dtype=np.uint8)).save(name)
    Image.fromarray(generator.integers(256, size=SIZE, dtype=np.uint8)).save("fits.png")
    return tmp_path


def prepared(path, levels):
    """What DataSettings promise, by hand: grey, the centre of 12 x 10 out of 14 x 13, 8 x 9, symbols."""
    grey = Image.open(path).convert("L").crop((1, 1, 11, 13)).resize((9, 8), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.floor(np.asarray(grey, dtype=float) * levels / 256)).long()[None]


def expected(kind, label, x, vector):
    return {
        "labels": label,
        "encoded": x,
        "vector": vector,
        "labels+encoded": (label, x),
        "vector+labels": (vector, label),
        "nested": ((x, label), vector),
    }[kind]


def cond_by_hand(kind, path, label=2, levels=17):
    return expected(kind, label, prepared(path, 3), network(levels).embed(prepared(path, levels)[None])[0])


def options_for(kind, path="a.png", label=2):
    return [*(["--label", str(label)] if "labels" in kind or kind == "nested" else []), "--like", path]


def draw(*words):
    assert main([*map(str, words), "--force", "--out", "drawn.npy"]) == 0
    return torch.from_numpy(np.load("drawn.npy"))


@pytest.mark.parametrize("levels", [17, 256])
@pytest.mark.parametrize("kind", PICTURES)
def test_sample_gives_each_part_what_it_wants(kind, levels, workplace):
    model = make_run(workplace / "run", kind, keeps=network(levels))
    x = draw("sample", "run", "-n", 6, "--seed", 3, *options_for(kind))
    cond = cond_by_hand(kind, "a.png", levels=levels)
    assert torch.equal(x, model.sample(6, cond, seed=3))
    for other in (cond_by_hand(kind, "b.png", levels=levels), *([cond_by_hand(kind, "a.png", 1)] if "labels" in kind else [])):
        assert not torch.equal(x, model.sample(6, other, seed=3))
    guided = draw("sample", "run", "-n", 6, "--seed", 3, "--guidance", 3, *options_for(kind))
    assert torch.equal(guided, model.sample(6, cond, seed=3, guidance=3.0))


@pytest.mark.parametrize("kind", PICTURES)
def test_complete_gives_each_part_what_it_wants(kind, workplace):
    model = make_run(workplace / "run", kind, keeps=network())
    images = torch.randint(3, (2, 1, *SIZE), generator=torch.Generator().manual_seed(1))
    np.savez("images.npz", images=images.numpy().astype(np.uint8), levels=3)
    y = draw("complete", "run", "--image", "images.npz", "-n", 3, "--seed", 3, *options_for(kind))
    known = torch.zeros(SIZE, dtype=torch.bool)
    known[:4] = True
    assert torch.equal(y, model.complete(images, known, 3, cond_by_hand(kind, "a.png"), seed=3))
    assert not torch.equal(y, model.complete(images, known, 3, cond_by_hand(kind, "b.png"), seed=3))
    assert main(["complete", "run", "--image", "images.npz", "-n", "3", *options_for(kind), "--force", "--out", "drawn.npz"]) == 0
    assert "labels" not in np.load("drawn.npz")


@pytest.mark.parametrize("kind", ["labels", "labels+encoded"])
def test_complete_takes_the_labels_of_an_npz(kind, workplace):
    model = make_run(workplace / "run", kind)
    images, labels = torch.zeros(2, 1, *SIZE, dtype=torch.long), torch.tensor([3, 1])
    np.savez("images.npz", images=images.numpy().astype(np.uint8), labels=labels.numpy(), levels=3)
    like = ["--like", "a.png"] if kind != "labels" else []
    command = ["complete", "run", "--image", "images.npz", "--known", "top:0", "-n", 3, *like]
    nothing = torch.tensor(False)
    for given, options in ((labels, []), (2, ["--label", 2])):
        cond = given if kind == "labels" else (given, prepared("a.png", 3))
        assert torch.equal(draw(*command, *options), model.complete(images, nothing, 3, cond))
    assert torch.equal(draw(*command[:-2] if like else command, "--guidance", 0), model.complete(images, nothing, 3, guidance=0))
    if kind == "labels":
        assert main([*map(str, command), "--force", "--out", "drawn.npz"]) == 0
        assert np.load("drawn.npz")["labels"].tolist() == [3, 3, 3, 1, 1, 1]
        assert main([*map(str, command), "--label", "2", "--force", "--out", "drawn.npz"]) == 0
        assert np.load("drawn.npz")["labels"].tolist() == [2] * 6


@pytest.mark.parametrize("kind", [*PICTURES, "labels+map", "spatial-map"])
def test_the_unconditional_law_needs_nothing(kind, workplace):
    model = make_run(workplace / "run", kind)  # not even the network
    assert torch.equal(draw("sample", "run", "-n", 4, "--guidance", 0), model.sample(4, guidance=0))


def test_a_picture_is_taken_as_it_is_where_nothing_says_how_to_prepare_it(workplace):
    x = torch.from_numpy(np.asarray(Image.open("fits.png")).astype(np.int64))[None]
    for name, data in (("model only", None), ("run", DataSettings(levels=3)), ("bits", DataSettings(levels=2, binarize="fixed"))):
        levels = 3 if data is None else data.levels
        model = make_run(workplace / name, "encoded", data, levels=levels)
        assert torch.equal(draw("sample", name, "-n", 4, "--like", "fits.png"), model.sample(4, x * levels // 256))
    assert torch.equal(draw("sample", "run/model", "-n", 4, "--like", "fits.png"), nextpixel.load("run").sample(4, x * 3 // 256))


def test_grey_pictures_serve_models_of_colour(workplace):
    model = make_run(workplace / "run", "encoded", DataSettings(levels=3, size=SIZE), shape=(3, *SIZE))
    Image.open("fits.png").save("grey.png")
    x = torch.from_numpy(np.asarray(Image.open("fits.png")).astype(np.int64)).expand(3, *SIZE) * 3 // 256
    assert torch.equal(draw("sample", "run", "-n", 2, "--like", "grey.png"), model.sample(2, x))


# --- interpolation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["linear", "spherical"])
@pytest.mark.parametrize("kind", PICTURES)
def test_two_pictures_are_ends(kind, path, workplace):
    model = make_run(workplace / "run", kind, keeps=network())
    fixed = options_for(kind)[:-2]
    ends = ["--from", "a.png", "--to", "b.png", "--steps", 3, "-n", 2, "--seed", 4, "--path", path]
    rows = draw("interpolate", "run", *ends, *fixed, "--guidance", 2)
    conds = [cond_by_hand(kind, name) for name in ("a.png", "b.png")]
    assert torch.equal(rows, model.interpolate(*conds, 3, 2, seed=4, path=path, guidance=2.0).flatten(0, 1))
    assert not torch.equal(rows[0], rows[2])


@pytest.mark.parametrize("kind", ["labels+encoded", "vector+labels", "nested"])
def test_labels_are_ends_beside_a_picture_that_stays(kind, workplace):
    model = make_run(workplace / "run", kind, keeps=network())
    rows = draw("interpolate", "run", "--from", 0, "--to", 3, "--like", "a.png")
    assert torch.equal(rows, model.interpolate(*(cond_by_hand(kind, "a.png", label) for label in (0, 3))).flatten(0, 1))


# --- bad input -------------------------------------------------------------------------------------------------------------

LIKE = "sample run --like a.png"
BETWEEN = "interpolate run --from a.png --to b.png"


@pytest.mark.parametrize(
    ("kind", "command", "message"),
    [
        ("none", LIKE, "--like a.png: the model in run is not conditioned on pictures"),
        ("labels", LIKE, "--like a.png: the model in run is not conditioned on pictures"),
        ("spatial-map", LIKE, "--like a.png: the model in run is not conditioned on pictures"),
        ("labels", "complete run --image fits.png --like a.png", "--like a.png: the model in run is not conditioned on pictures"),
        ("none", "sample run --label 1", "--label 1: the model in run is not class-conditional"),
        ("encoded", "sample run --label 1", "--label 1: the model in run is not class-conditional"),
        ("vector", f"{LIKE} --label 1", "--label 1: the model in run is not class-conditional"),
        ("labels", "sample run --label 4", "--label 4: expected a number from 0 to 3"),
        ("labels", "sample run --label -1", "--label -1: expected a number from 0 to 3"),
        ("labels+encoded", f"{LIKE} --label 4", "--label 4: expected a number from 0 to 3"),
        ("labels", "sample run --label cat", "--label cat: expected a number from 0 to 3 (no class has a name)"),
        ("encoded", "sample run", "the model in run needs --like"),
        ("vector", "sample run", "the model in run needs --like"),
        ("spatial-map", "sample run", "the model in run needs a spatial-map, which only Python can give"),
        ("labels+encoded", "sample run", "the model in run needs --label and --like"),
        ("labels+encoded", LIKE, "the model in run also needs --label"),
        ("labels+encoded", f"{LIKE} --guidance 0", "the model in run also needs --label"),
        ("vector+labels", "sample run --label 1", "the model in run also needs --like"),
        ("nested", "sample run --label 1", "the model in run also needs --like"),
        ("labels+map", "sample run --label 1", "the model in run also needs a spatial-map, which only Python can give"),
        ("labels+map", LIKE, "--like a.png: the model in run is not conditioned on pictures"),
        ("encoded", "complete run --image fits.png", "the model in run needs --like"),
        ("labels+encoded", "complete run --image fits.png --like a.png", "the model in run also needs --label"),
        ("encoded", "sample run --like missing.png", "cannot read the picture missing.png: No such file or directory"),
        ("encoded", "sample run --like damaged.png", "cannot read the picture damaged.png: "),
        ("vector", "sample run --like text.png", "cannot read the picture text.png: not an image"),
        ("encoded", "sample run --like clear.png", "clear.png is partly transparent"),
        ("encoded", "sample run --like fits.png", "fits.png is 8x9 (height x width): smaller than --data.crop 12x10"),
        ("labels", "interpolate run --from a.png --to b.png", "--from a.png: the model in run is not conditioned on pictures"),
        ("none", "interpolate run --from 1 --to 2", "--from 1: the model in run is not class-conditional"),
        ("encoded", "interpolate run --from 1 --to 2", "--from 1: the model in run is not class-conditional"),
        ("encoded", "interpolate run --from a.png --to missing.png", "--to missing.png: no such file; expected a label (0, 1,"),
        ("encoded", "interpolate run --from a.png --to damaged.png", "cannot read the picture damaged.png: "),
        ("encoded", "interpolate run --from 1 --to b.png", "--from 1 is a label, but --to b.png is a picture: expected"),
        ("vector", "interpolate run --from a.png --to b.npy", "--from a.png is a picture, but --to b.npy is a .npy file"),
        ("vector", "interpolate run --from a.npy --to 3", "--from a.npy is a .npy file, but --to 3 is a label"),
        ("labels+encoded", BETWEEN, "the model in run also needs --label"),
        ("labels+encoded", f"{BETWEEN} --label 4", "--label 4: expected a number from 0 to 3"),
        ("encoded", f"{BETWEEN} --label 1", "--label 1: the model in run is not class-conditional"),
        ("encoded", f"{BETWEEN} --like a.png", "--like a.png: --from a.png and --to b.png already give that"),
        ("labels", "interpolate run --from 1 --to 2 --label 3", "--label 3: --from 1 and --to 2 already give that"),
        ("labels+encoded", "interpolate run --from 1 --to 2", "the model in run also needs --like"),
        ("vector", "interpolate run --from a.npy --to b.npy --like a.png", "--like a.png: --from a.npy and --to b.npy already"),
        ("labels", "interpolate run --from a.npy --to b.npy --label 1", "--label 1: --from a.npy and --to b.npy already"),
        ("labels+encoded", "interpolate run --from a.npy --to b.npy", "cond must be a tuple of 2 parts (labels, encoded)"),
        ("encoded", f"{BETWEEN} --guidance 2e6", "guidance must be from"),
        ("encoded", f"{BETWEEN} --guidance much", "--guidance much: expected a number"),
    ],
)
def test_bad_commands(kind, command, message, workplace, refuse):
    make_run(workplace / "run", kind, keeps=network())
    whole = (workplace / "a.png").read_bytes()
    (workplace / "damaged.png").write_bytes(whole[: len(whole) // 2])
    (workplace / "text.png").write_text("no picture")
    Image.new("LA", (20, 20)).save("clear.png")
    for name in ("a", "b"):
        np.save(f"{name}.npy", np.zeros(5))
    assert message in refuse(command)


@pytest.mark.parametrize("option", ["--like", "--from"])
@pytest.mark.parametrize("kind", ["encoded", "vector"])
def test_a_picture_of_another_size_is_named_with_what_the_run_lacks(kind, option, workplace, refuse):
    command = "sample run --like a.png" if option == "--like" else BETWEEN
    make_run(workplace / "run", kind, DataSettings(levels=3, grayscale=True), network())
    line = refuse(command)
    sizes = f"{option} a.png is 13 x 14 pixels wide and high, but the model is for 9 x 8"
    assert f"{sizes}, and run has no --data.size that would resize it\n" in line
    make_run(workplace / "run", kind, DataSettings(levels=3, grayscale=True, size=(9, 9)), network())
    assert "--like a.png is 9 x 9 pixels wide and high, but the model is for 9 x 8\n" in refuse("sample run --like a.png")


def test_a_picture_in_colour_is_refused_where_data_were_not_made_grey(workplace, refuse):
    make_run(workplace / "run", "encoded", DataSettings(levels=3, size=SIZE))
    assert "a.png is a colour picture, but 1 channel is needed" in refuse(LIKE)


@pytest.mark.parametrize("command", [LIKE, "sample run", BETWEEN])
def test_a_run_without_the_network_that_made_its_vectors(command, workplace, refuse):
    make_run(workplace / "run", "vector", keeps=network())
    shutil.rmtree(workplace / "run" / INSIDE)
    assert "run keeps no embedding network in run/embedding\n" in refuse(command)
    make_run(workplace / "run", "vector", keeps=network(dim=4))
    line = refuse(command)
    assert "the network in run/embedding makes vectors of 4 numbers, but the model in run was trained on those of another" in line
    assert "of 5 numbers" in line


def test_no_picture_holds_codes(workplace, refuse):
    make_run(workplace / "run", "encoded", DataSettings(levels=3), inputs="embedding")
    assert "--like fits.png: the model in run draws codes, which no picture file holds" in refuse("sample run --like fits.png")


def test_a_broken_config_is_named(workplace, refuse):
    make_run(workplace / "run", "encoded")
    (workplace / "run" / "config.yaml").write_text("dat: {}")
    assert "run/config.yaml: unknown setting 'dat'" in refuse(LIKE)


# --- classes by name, and a run that knows what it was trained on -----------------------------------------------------


@pytest.fixture(scope="module")
def named_run(tmp_path_factory):
    """A run of two class folders, trained for an epoch without condition dropout, on a relative path."""
    folder = tmp_path_factory.mktemp("named")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "pics" / name).mkdir(parents=True)
        for k in range(20):
            Image.fromarray(generator.integers(256, size=(8, 8), dtype=np.uint8)).save(folder / "pics" / name / f"{k}.png")
    sizes = ["--model.features", "8", "--model.blocks", "1", "--model.head_features", "8", "--training.condition_dropout", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train = ["train", "digits-class", "--data", "pics", "--data.levels", "4", "--data.source_levels", "256", "--out", "RUN"]
        assert main([*train, *sizes, "--training.epochs", "1", "--report", "none"]) == 0
    return folder


def test_a_run_and_its_model_keep_the_names_of_classes(named_run):
    assert nextpixel.load(named_run / "RUN").class_names == ["cat", "dog"]
    assert "Classes: 0 cat, 1 dog." in (named_run / "RUN" / "model" / "README.md").read_text()
    nextpixel.load(named_run / "RUN").save(named_run / "again")
    assert nextpixel.load(named_run / "again").class_names == ["cat", "dog"]


@pytest.mark.parametrize("verb", ["sample", "complete", "interpolate", "compress"])
def test_a_class_is_given_by_its_name(named_run, tmp_path, monkeypatch, capsys, verb):
    monkeypatch.chdir(tmp_path)
    run, picture = str(named_run / "RUN"), str(named_run / "pics" / "dog" / "0.png")
    np.save("x.npy", np.zeros((1, 1, 8, 8), dtype=np.uint8))

    def draw(name, out):
        words = {
            "sample": ["sample", run, "-n", "2", "--label", name, "--out", out],
            "complete": ["complete", run, "--image", picture, "-n", "1", "--label", name, "--out", out],
            "interpolate": ["interpolate", run, "--from", name, "--to", "cat", "-n", "1", "--steps", "2", "--out", out],
            "compress": ["compress", run, "x.npy", "--label", name, "-o", out],
        }
        return main(words[verb])

    assert draw("dog", "by-name.npy") == draw("1", "by-number.npy") == 0
    assert (tmp_path / "by-name.npy").read_bytes() == (tmp_path / "by-number.npy").read_bytes()
    capsys.readouterr()
    assert draw("dgo", "wrong.npy") == 2
    assert "no such class; nearest are dog" in capsys.readouterr().err
    assert not (tmp_path / "wrong.npy").exists()


def test_a_run_is_evaluated_from_any_folder_and_tells_what_it_was_trained_on(named_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = str(named_run / "RUN")
    assert main(["evaluate", run, "--csv", "a.csv"]) == 0
    assert "trained on" not in capsys.readouterr().out
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == "index,file,label,nats,bits_per_dim"
    assert all(line.split(",")[1].startswith(("cat/", "dog/")) for line in lines[1:])
    assert main(["evaluate", run, "--data", str(named_run / "pics")]) == 0
    trained = len(np.load(named_run / "RUN" / "trained.npy"))
    assert f"{trained} of 40 all images were trained on" in capsys.readouterr().out


def test_a_resumed_run_says_that_its_data_have_changed(named_run, tmp_path, monkeypatch, capsys):
    run, pics = tmp_path / "RUN", tmp_path / "pics"
    shutil.copytree(named_run / "RUN", run)
    shutil.copytree(named_run / "pics", pics)
    for k in range(6):
        Image.new("L", (8, 8), k).save(pics / "cat" / f"new{k}.png")
    words = ["train", "--out", str(run), "--resume", "--data.source", str(pics), "--training.epochs", "2", "--report", "none"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "the data have changed since this run began" in shown.out + shown.err


def test_other_sizes_are_evaluated_without_the_marginal_and_guidance_says_what_it_lacks(named_run, tmp_path, capsys):
    (tmp_path / "dog").mkdir()
    Image.new("L", (12, 10), 3).save(tmp_path / "dog" / "a.png")
    assert (
        main(["evaluate", str(named_run / "RUN"), "--data", str(tmp_path), "--guidance", "0", "--csv", str(tmp_path / "b.csv")])
        == 0
    )
    shown = capsys.readouterr()
    assert "left out" in shown.out
    assert "condition dropout 0" in shown.err
    assert (tmp_path / "b.csv").read_text().splitlines()[1].startswith("0,dog/a.png,1,")  # a subset keeps its number


def test_a_run_of_before_keeps_its_rule_of_splits(tmp_path):
    Experiment(data=DataSettings(source="x.npy")).save(tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    assert read_experiment(tmp_path / "config.yaml").data.split_by == "image"
    (tmp_path / "config.yaml").write_text(text.replace("  split_by: image\n", ""))
    assert read_experiment(tmp_path / "config.yaml").data.split_by == "position"


def test_labels_of_other_data_are_numbers_where_a_run_keeps_no_names(tmp_path, capsys):
    import made_runs

    model = made_runs.make_run(tmp_path / "run")
    images = np.random.default_rng(0).integers(made_runs.LEVELS, size=(2, 8, 8))
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([3, 4]), levels=made_runs.LEVELS)
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "a.npz"), "--csv", str(tmp_path / "a.csv")]) == 0
    assert "become classes" not in capsys.readouterr().err
    with torch.no_grad():
        nats = -model.eval().log_prob(torch.from_numpy(images)[:, None], torch.tensor([3, 4]))
    rows = [line.split(",") for line in (tmp_path / "a.csv").read_text().splitlines()]
    column = rows[0].index("nats")
    np.testing.assert_allclose([float(row[column]) for row in rows[1:]], nats.numpy(), rtol=1e-4)
