"""The command line: every verb does its work, bad input is one line and status 2, and the README's commands are real."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nextpixel
from nextpixel.cli import main
from nextpixel.cli.parser import VERBS, make_parser, spell_out_data
from nextpixel.data.splits import load as load_data
from nextpixel.errors import InputError
from nextpixel.recipes import read_experiment, recipe_names

ROOT = Path(__file__).parent.parent
TINY = "--model.features 8 --model.blocks 2 --model.head_features 8 --training.epochs 1 --training.eval_every 1"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    data = "--data.levels 4 --data.source_levels 17"
    assert main(f"train digits {TINY} {data} --training.lr 0.02 --report short --out {out}".split()) == 0
    return out


def test_train_prints_the_result_beside_the_baselines(tmp_path, capsys):
    assert main(f"train digits-pixelcnn {TINY} --out {tmp_path / 'run'}".split()) == 0
    out = capsys.readouterr().out
    for word in (
        "test",
        "uniform",
        "pixel marginal",
        "PNG",
        "WebP",
        "bits/dim",
        "samples.png",
        "completions.png",
        "curve.png",
        "report.md",
    ):
        assert word in out


def test_evaluate(run, tmp_path, capsys):
    assert main(["evaluate", str(run), "--csv", str(tmp_path / "scores.csv")]) == 0
    out = capsys.readouterr().out
    report = (run / "report.md").read_text()
    bits, nats = re.search(r"test +(\d\.\d{4}) ± \d\.\d{4} +(\d+\.\d{3}) ± ", out).groups()
    assert f"{bits} ± " in report
    rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert rows[0] == "index,label,nats,bits_per_dim"
    assert np.mean([float(row.split(",")[2]) for row in rows[1:]]) == pytest.approx(float(nats), abs=1e-3)


def test_evaluate_other_data_and_splits(run, tmp_path, capsys):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(17, size=(5, 8, 8)))
    assert main(["evaluate", str(run), f"--data={tmp_path / 'images.npy'}"]) == 0
    assert "5 images" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--split", "validation"]) == 0
    assert "180 images" in capsys.readouterr().out


def test_sample(run, tmp_path, capsys):
    for name in ("a.png", "a.npy", "b.npy"):
        assert main(["sample", str(run), "-n", "6", "--seed", "3", "--size", "5x9", "--out", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / name)
    x = np.load(tmp_path / "a.npy")
    assert x.shape == (6, 1, 5, 9)
    assert x.max() < 4
    assert (x == np.load(tmp_path / "b.npy")).all()
    assert Image.open(tmp_path / "a.png").size[0] > 64
    model = nextpixel.load(run)
    assert (x == model.sample(6, seed=3, size=(5, 9)).numpy()).all()


def test_complete(run, tmp_path, capsys):
    for name in ("a", "b"):
        Image.fromarray(np.random.default_rng(1).integers(256, size=(8, 8), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    out = tmp_path / "completions.png"
    command = ["complete", run, "--image", tmp_path / "a.png", tmp_path / "b.png", "--known", "left:0.5", "-n", "3", "--out", out]
    assert main([str(word) for word in command]) == 0
    assert Image.open(out).size[0] > 5 * 64


def test_inspect(run, tmp_path, capsys):
    out = tmp_path / "field.png"
    assert main(["inspect", "masks", "pixelcnn", "gated-pixelcnn", str(run), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "only mask B (leaks): at (3, 3): 21 of 24 earlier places reached, 3 in the blind spot, 1 leak\n" in printed
    assert re.search(r"gated-pixelcnn: .* 0 in the blind spot, 0 leaks", printed)
    assert re.search(r"\npixelcnn: .* [1-9]\d* in the blind spot, 0 leaks", printed)
    assert Image.open(out).size[0] > 500
    assert main(["inspect", "pixelcnn", "--channels", "3", "--size", "7x8", "--force", "--out", str(out)]) == 0
    assert "0 sees none; 1 sees [0]; 2 sees [0, 1]" in capsys.readouterr().out


def test_inspect_pixelcnn_pp(tmp_path, capsys):
    field = ["--size", "7x8", "--force", "--out", str(tmp_path / "field.png")]
    # Section 3.3 of the paper: fewer resolutions, a smaller field
    seen = []
    for options in (["--blocks", "1"], ["--blocks", "1", "--stages", "1"], ["--blocks", "1", "--stages", "2", "--channels", "3"]):
        assert main(["inspect", "pixelcnn++", *options, *field]) == 0
        printed = capsys.readouterr().out
        assert printed.endswith(f"\n{tmp_path / 'field.png'}\n")
        reached, earlier = re.search(r"pixelcnn\+\+: .* (\d+) of (\d+) earlier places reached", printed).groups()
        assert ", 0 leaks" in printed
        seen.append((int(reached), int(earlier)))
    assert seen[0][0] == seen[0][1] > seen[1][0]
    assert Image.open(tmp_path / "field.png").size[0] > 64


def test_inspect_multiscale(tmp_path, capsys):
    out = tmp_path / "field.png"
    assert (
        main(["inspect", "multiscale", "--channels", "3", "--size", "7x8", "--place", "2,3", "--force", "--out", str(out)]) == 0
    )
    printed = capsys.readouterr().out
    assert "0 sees none; 1 sees [0]; 2 sees [0, 1]" in printed
    # All 4 x 4 places of the small image, and the finer places of two rows and of the own one.
    assert re.search(r"multiscale: at \(2, 3\): \d+ of 29 earlier places reached, .* 0 leaks", printed)
    assert Image.open(out).size[0] > 64


def test_stages_are_given_and_trained_one_by_one(tmp_path, capsys):
    small = {"features": 6, "blocks": 1, "head_features": 6}
    stages = [{"stride": 2, "name": "pixelcnn", **small}, {"stride": 1, "name": "gated-pixelcnn", **small}]
    tiny = ["--training.epochs", "1", "--training.eval_every", "1", "--training.sample_every", "0", "--report", "none"]
    first, second = tmp_path / "first", tmp_path / "second"
    command = ["train", "digits-multiscale", *tiny, "--model.stages", json.dumps(stages), "--training.stage", "0", "--out", first]
    assert main([str(word) for word in command]) == 0
    assert "training stage 0 of multiscale (" in capsys.readouterr().out
    command = ["train", "--config", first / "config.yaml", "--training.stage", "1", "--training.start", first, "--out", second]
    command += ["--report", "none"]
    assert main([str(word) for word in command]) == 0
    model, before = nextpixel.load(second), nextpixel.load(first).state_dict()
    assert model.stages == stages
    assert [network.name for network in model.networks] == ["pixelcnn", "gated-pixelcnn"]
    for key, value in model.state_dict().items():
        assert (value == before[key]).all() == key.startswith("networks.0.")


def test_class_conditional(tmp_path, capsys, refuse):
    out = tmp_path / "run"
    assert main(f"train digits-class {TINY} --training.condition_dropout 0.2 --report short --out {out}".split()) == 0
    assert "condition dropout 0.2, " in (out / "report.md").read_text()
    model = nextpixel.load(out)
    for options, guidance in (([], 1), (["--guidance", "2.5"], 2.5)):
        assert (
            main(["sample", str(out), "-n", "4", "--label", "3", *options, "--force", "--out", str(tmp_path / "three.npy")]) == 0
        )
        x = np.load(tmp_path / "three.npy")
        assert (x == model.sample(4, cond=3, guidance=guidance).numpy()).all()
    save_pictures(tmp_path / "pictures", (8, 8))
    image, pictures, drawn = tmp_path / "pictures" / "0.png", [], tmp_path / "completions.png"
    for guidance in ("0", "1", "4"):
        command = ["complete", out, "--image", image, "--label", "3", "--guidance", guidance, "--force", "--out", drawn]
        assert main([str(word) for word in command]) == 0
        pictures.append(drawn.read_bytes())
    assert len(set(pictures)) == 3
    capsys.readouterr()
    found = {}
    for guidance in (0.0, 1.0, 2.0):
        assert main(["evaluate", str(out), "--guidance", str(guidance)]) == 0
        found[guidance] = float(re.search(r"test +(\d\.\d{4}) ± ", capsys.readouterr().out).group(1))
    images = load_data(read_experiment(out / "config.yaml").data).test
    x, labels = images.__getitems__(list(range(len(images))))
    for guidance, bits in found.items():
        assert bits == pytest.approx(model.bits_per_dim(x, labels, guidance).mean().item(), abs=1e-4)
    assert len(set(found.values())) == 3
    for given, message in (("nan", "guidance.*nan"), ("2e6", r"guidance must be from -1e\+06 to 1e\+06, not 2000000\.0")):
        assert re.search(message, refuse(["sample", out, "--guidance", given, "--out", tmp_path / "x.png"]))
    assert "needs a condition" in refuse(["complete", out, "--image", image, "--out", tmp_path / "x.png"])
    assert "--label 10: no such class" in refuse(["sample", out, "--label", "10", "--out", tmp_path / "x.png"])
    assert not (tmp_path / "x.png").exists()


def test_recipes(capsys):
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    for name in ("digits", "mnist-binary", "mnist-4level", "mnist", "cifar10"):
        assert f"\n{name} " in "\n" + out
        assert f"\n{name}-pixelcnn " in out
        assert {name, f"{name}-pixelcnn"} <= set(recipe_names())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("trian digits", "unknown verb 'trian': did you mean train"),
        ("train digts", "unknown recipe 'digts': did you mean digits"),
        ("train", "nothing to train: give a recipe first"),
        ("train digits --config x.yaml", "give the recipe digits or --config x.yaml, not both"),
        ("train --config /nowhere.yaml", "cannot read /nowhere.yaml: No such file"),
        ("train digits --training.epochs many", "--training.epochs many: expected a whole number"),
        ("train digits --training.epochs 0", "--training.epochs is 0: expected at least 1"),
        ("train digits --model.feetures 8", "unknown option --model.feetures: did you mean --model.features"),
        ("train digits --training.devices none", "--training.devices is 'none': expected a number of at least 1, or auto"),
        ("train digits --data.levels 1", "--data.levels is 1: expected 2 to 65536"),
        ("train digits --resume --out /nowhere", "/nowhere is no run to resume: it has no config.yaml"),
        ("evaluate /nowhere", "/nowhere does not exist: expected a run's folder or a bundled model"),
        (
            "sample /nowhere",
            "/nowhere does not exist: expected a model's folder, a run's folder, a hub id owner/name or a bundled model",
        ),
        ("sample runs/x --size 3", "'3' is no pair of numbers: expected for example 28x32"),
        ("inspect pixelrnn", "neither a run folder nor a bundled model nor masks nor one of pixelcnn"),
        ("inspect pixelcnn --kernel_size 4", "kernel_size must be odd, not 4"),
        ("inspect pixelcnn++ --kernel_size 5", r"pixelcnn\+\+ has no --kernel_size: its options are blocks, stages\n"),
        ("inspect pixelcnn --stages 2", "pixelcnn has no --stages: its options are blocks, kernel_size, first_kernel_size\n"),
        ("inspect multiscale --stages 2", "multiscale has no --stages: its options are channels and size\n"),
        ("train digits --training.condition_dropout 0.1", "condition_dropout is 0.1, but this gated-pixelcnn has no condition\n"),
        (
            "train digits-class --training.condition_dropout 1",
            "condition_dropout is 1.0: expected from 0 up to .not including. 1",
        ),
        ("train digits-class --model.condition null", "condition_dropout is 0.1, but this gated-pixelcnn has no condition\n"),
        ("sample runs/x --guidance much", "--guidance much: expected a number"),
        (
            "train digits --model.condition magic",
            "--model.condition magic: expected labels, encoded, embedding, vector, known or labels.known or settings",
        ),
        ("train digits-autoencoder --model.condition.features 0", "gated-pixelcnn: encoded needs features >= 1, not 0"),
        ("train digits-autoencoder --model.condition.maps x", "gated-pixelcnn: encoded needs maps >= 1, not 'x'"),
        ("train digits-autoencoder --model.condition.dim 3", "gated-pixelcnn: condition encoded has no dim: expected some of"),
        ("train digits --training.stage 0", "--training.stage is 0, but this gated-pixelcnn has no stages"),
        ("train digits-multiscale --training.stage 2", "--training.stage is 2, but this multiscale has the stages 0 to 1"),
        ("train digits-multiscale --training.start /nowhere", "/nowhere does not exist: expected a model's folder"),
        ("train digits-multiscale --model.stages 3", "--model.stages 3: expected a list such as"),
        ("inspect pixelcnn++ --stages 0", r"pixelcnn\+\+: stages must be at least 1, not 0"),
    ],
)
def test_bad_commands(command, message, refuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refuse(command))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def save_pictures(folder, *sizes, mode="L"):
    folder.mkdir()
    for k, (width, height) in enumerate(sizes):
        Image.effect_noise((width, height), 50).convert(mode).save(folder / f"{k}.png")


def test_bad_data_for_training(refuse, tmp_path):
    train = f"train digits {TINY} --out {tmp_path / 'run'} --data "
    (tmp_path / "empty").mkdir()
    assert f"no pictures in {tmp_path / 'empty'}" in refuse(train + str(tmp_path / "empty"))
    assert f"no file or folder '{tmp_path / 'missing'}'" in refuse(train + str(tmp_path / "missing"))
    save_pictures(tmp_path / "sizes", (8, 8), (8, 8), (9, 7))
    line = refuse(train + str(tmp_path / "sizes"))
    assert "2.png" in line
    assert "--data.size" in line
    save_pictures(tmp_path / "corrupt", *[(8, 8)] * 3)
    (tmp_path / "corrupt" / "1.png").write_bytes(b"no picture")
    assert "1.png" in refuse(train + str(tmp_path / "corrupt"))
    np.save(tmp_path / "range.npy", np.full((30, 8, 8), 17))
    assert "value 17 in " in refuse(train + str(tmp_path / "range.npy"))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_bad_input_for_a_run(run, refuse, tmp_path):
    np.save(tmp_path / "colour.npy", np.zeros((5, 3, 8, 8), dtype=np.uint8))
    assert "the model is for images of 1 channels" in refuse(["evaluate", run, "--data", tmp_path / "colour.npy"])
    assert "has no split 'tset': it has train, validation, test" in refuse(["evaluate", run, "--split", "tset"])
    assert "is not class-conditional" in refuse(["sample", run, "--label", "3"])
    for verb in (["sample"], ["evaluate"]):
        assert "guidance 2.0 needs a model with a condition" in refuse([*verb, run, "--guidance", "2"])
    assert "expected a file that ends in .png, .npy or .npz" in refuse(["sample", run, "--out", tmp_path / "x.jpeg"])
    (tmp_path / "file").write_text("")
    assert "cannot write" in refuse(["sample", run, "-n", "1", "--out", tmp_path / "file" / "x.png"])
    assert "n must be at least 1" in refuse(["sample", run, "-n", "0", "--out", tmp_path / "x.png"])
    save_pictures(tmp_path / "pictures", (8, 8), (9, 7))
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert "differ in size: (7, 9) and (8, 8)" in refuse(["complete", run, "--image", *pictures])
    assert "is not class-conditional" in refuse(["complete", run, "--image", pictures[0], "--label", "3"])
    assert "guidance 2.0 needs a model" in refuse(["complete", run, "--image", pictures[0], "--guidance", "2"])
    assert "top:S" in refuse(["complete", run, "--image", pictures[0], "--known", "middle"])
    assert "is not empty: give another folder, or --resume" in refuse(f"train digits {TINY} --out {run}")
    assert "the run is finished (epoch 1 of 1): give more --training.epochs" in refuse(["train", "--resume", "--out", run])
    assert "is a run of digits, not of digits-pixelcnn" in refuse(["train", "digits-pixelcnn", "--resume", "--out", run])
    assert not list(tmp_path.glob("x.*"))


def test_help_is_quick_because_it_does_not_import_torch():
    code = "import sys; sys.argv = ['nextpixel', '--help']\ntry:\n import nextpixel.cli as c; c.main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'lightning', 'matplotlib', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for verb in VERBS:
        assert f"    {verb} " in out
    assert out.endswith("[]\n")


@pytest.mark.parametrize("words", [["train", "--help"], ["train", "digits", "--help"], ["sample", "--help"]])
def test_help_does_not_import_the_engine(words):
    code = f"import sys\nfrom nextpixel.cli import main\ntry:\n main({words})\nexcept SystemExit: pass\n"
    code += "print([m for m in ('lightning_fabric', 'lightning', 'numba') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("[]\n")


def test_every_verb_has_help(capsys):
    for words in (*([verb] for verb in VERBS), ["train", "digits"]):
        with pytest.raises(SystemExit) as exit_:
            main([*words, "--help"])
        assert exit_.value.code == 0
        out = capsys.readouterr().out
        assert "--help" in out
    assert "--model.features" in out
    assert "Batches whose mean gradient" in " ".join(out.split())


def test_a_real_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "nextpixel", *f"train digits {TINY} --training.epochs 20 --out {out}".split()]

    def heed_ctrl_c():  # a shell's background job would ignore it, and hand that down
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    process = subprocess.Popen(command, **pipes, env=environment, preexec_fn=heed_ctrl_c)
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # which makes it say where it hangs
        pytest.fail(process.communicate()[1])
    assert process.returncode == 130, err
    assert f"nextpixel train --out {out} --resume" in err
    assert "Traceback" not in err
    assert (out / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.skipif(not (ROOT / ".venv" / ".ready").exists(), reason="make's environment is not there: run `make test`")
@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
def test_make_demo_on_a_tiny_budget(tmp_path):
    demo = ["make", "demo", f"DEMO={tmp_path / 'demo'}", f"DEMO_ARGS={TINY}"]
    out = subprocess.run(demo, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"test +\d\.\d{4} ± ", out)
    for name in ("samples/samples.png", "samples/completions.png", "samples/curve.png", "report.md"):
        assert str(tmp_path / "demo" / name) in out
        assert (tmp_path / "demo" / name).stat().st_size > 0


def test_commands_in_the_documents_exist():
    found = 0
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for line in re.findall(r"^nextpixel (.*?)(?: +#.*)?$", page.read_text(), flags=re.M):
            argv = line.replace("--resume", "").split()
            if "--out" in argv and argv[0] == "train" and argv[1].startswith("--"):
                argv = ["train", "digits", *argv[1:]]
            make_parser(argv).parse_args(spell_out_data(argv))
            found += 1
    assert found >= 9


@pytest.mark.parametrize("option", ["size", "crop"])
@pytest.mark.parametrize("text", ["8x6", "8,6", "[8,6]", "[8, 6]"])
@pytest.mark.parametrize("form", ["word", "equals", "yaml"])
def test_pairs_of_numbers_in_any_form(option, text, form):
    from nextpixel.cli.parser import Parser, add_settings, set_defaults, spell_out_data
    from nextpixel.data.settings import DataSettings

    parser = Parser()
    add_settings(parser, "data", DataSettings)
    if form == "yaml":
        set_defaults(parser, "data", {option: text}, [option], "a.yaml")
    words = {"word": [f"--data.{option}", text], "equals": [f"--data.{option}={text}"], "yaml": []}[form]
    assert tuple(parser.parse_args(spell_out_data(words)).data[option]) == (8, 6)


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("size", "8", "two whole numbers such as 28x32"),
        ("crop", "axb", "two whole numbers such as 28x32"),
        ("levels", "x", "a whole number"),
        ("limit", "1.5", "a whole number"),
        ("validation", "x", "a number"),
        ("flip", "maybe", "true or false"),
        ("binarize", "q", "none, fixed, stochastic or threshold"),
    ],
)
def test_an_option_of_the_data_names_the_form_that_is_wanted(option, value, wanted):
    from nextpixel.cli.parser import Parser, add_settings
    from nextpixel.data.settings import DataSettings

    parser = Parser()
    add_settings(parser, "data", DataSettings)
    with pytest.raises(InputError, match=re.escape(f"--data.{option} {value}: expected {wanted}")):
        parser.parse_args([f"--data.{option}", value])
