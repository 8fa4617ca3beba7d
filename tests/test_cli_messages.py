"""Mistyped command lines: one line that names the nearest option, or the form of the value, and status 2."""

import random

import pytest

from nextpixel.cli import main
from nextpixel.cli.messages import form, nearest, shortened
from nextpixel.cli.parser import VERBS, make_parser


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("train digits --epochs 3", "unknown option --epochs: did you mean --training.epochs?"),
        ("train digits --lr 0.1", "unknown option --lr: did you mean --training.lr?"),
        ("train digits --batch-size 4", "unknown option --batch-size: did you mean --training.batch_size?"),
        ("train digits --gpu 1", "unknown option --gpu: did you mean --training.devices?"),
        (
            "train digits --model.featurs 3",
            "unknown option --model.featurs: did you mean --model.features or --model.head_features?",
        ),
        ("sample run --temprature 2", "unknown option --temprature: did you mean --temperature?"),
        ("sample run --number 2", "unknown option --number: did you mean -n?"),
        ("sample run --qqqq 2", "unknown option --qqqq: nextpixel sample --help lists all"),
        ("sample run again", "'again' is one word too many; nextpixel sample --help shows what is expected"),
        ("sample", "missing: RUN; nextpixel sample --help shows how"),
        ("smaple", "unknown verb 'smaple': did you mean sample?"),
        ("sample run -n 1.5", "-n 1.5: expected a whole number"),
        ("train digits --training.epochs x", "--training.epochs x: expected a whole number"),
        ("train digits --training.lr x", "--training.lr x: expected a number"),
        ("train digits --data.flip 7", "--data.flip 7: expected true or false"),
        ("train digits --data.binarize foo", "--data.binarize foo: expected none, fixed, stochastic or threshold"),
        ("train digits --training.betas 0.9", "--training.betas 0.9: expected two numbers such as [0.9,0.9]"),
        (
            "train digits --training.betas [1,2]",
            "--training.betas is [1.0, 2.0]: expected two numbers from 0 up to (not including) 1",
        ),
        ("train digits --training.seed -1", "--training.seed is -1: expected from 0 to 2^63 - 1"),
        ("train digits --training.lr 0", "--training.lr is 0.0: expected a number above 0"),
    ],
)
def test_the_way_out_is_named(words, line, refuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refuse(words.split()) == f"nextpixel: error: {line}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("inspect pixelcnn --first_kernel_size -1", "kernel_size must be odd, not -1, and from 1 to 255"),
        ("inspect gated-pixelcnn --kernel_size 1000000001", "at most 255, not 1000000001"),
        ("inspect row-lstm --kernel_size -3", "kernel_size must be odd, not -3, and from 1 to 255"),
        ("inspect pixelcnn --blocks 1000000000", "blocks must be at most 16384, not 1000000000"),
        ("bench --training_batch 100000000000000000000", "--training_batch is 100000000000000000000: expected from 0 to 16384"),
        ("bench --sizes [1000000000]", "--sizes is [1000000000]: expected numbers from 1 to 16384"),
        ("sample run -n 1000000000", "-n 1000000000: expected at most 1000000 images at once; draw more with other seeds"),
    ],
)
def test_sizes_that_no_machine_holds_are_refused_at_once(words, line, refuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert line in refuse(words)
    assert not list(tmp_path.iterdir())


def test_the_forms_of_values():
    assert form(dict[str, int]) == "settings such as {name: value}"
    assert form(list[str]) == "a list such as [a,b]"
    assert form(int | str) == "a whole number or a text"
    assert nearest("kernel", ["model.kernel_size", "seed"]) == ["model.kernel_size"]
    assert nearest("seeds", ["data.seed", "training.seed"]) == ["data.seed", "training.seed"]


def test_no_message_is_long_or_has_a_line_break():
    line = shortened("error: " + "x" * 5000 + "\n" + "word " * 500)
    assert len(line) <= 300
    assert "\n" not in line
    assert "x..." in line.replace("xx", "x") or "..." in line


# Values that no option, or few, take: too large, of another type, with line breaks, long, empty, of other scripts.
JUNK = (
    *(
        "",
        " ",
        "-1",
        "0",
        "1e20",
        "nan",
        "inf",
        "-inf",
        "[1,2]",
        "[]",
        "{}",
        "{a: 1}",
        "null",
        "true",
        "x",
        "3.5",
        "a\nb",
        "é漢字",
    ),
    *("x" * 5000, "/dev/null", "..", "1,2", "16x16", "'", '"', "${HOME}", "!!python/object:os.system", "- 1", "a: b: c", "%s"),
)


def options_of(verb):
    actions = make_parser([verb]).verb._actions
    return [option for action in actions for option in action.option_strings if option not in ("-h", "--help")]


def command_line(chance, known):
    """A verb with no run that exists, options of it, some mistyped, with junk as values."""
    verb = chance.choice(list(VERBS))
    words = [verb, *(["digits"] if verb == "train" else [] if verb in ("recipes", "bench") else ["no/such/run/here"])]
    if verb == "bench":
        words += ["--sizes", "x"]
    for _ in range(chance.randint(1, 3)):
        option = chance.choice(known[verb]) if known[verb] else "--x"
        if chance.random() < 0.2:
            place = chance.randrange(2, len(option) + 1) if len(option) > 2 else len(option)
            option = option[:place] + chance.choice("abcxyz-_.") + option[place:]
        words += [option, chance.choice(JUNK)]
    if verb == "train":
        words += ["--training.epochs", "none at all"]  # never a run
    return words


@pytest.mark.parametrize("number", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_generated_command_lines_end_with_one_line(number, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chance, known = random.Random(number), {verb: options_of(verb) for verb in VERBS}
    for _ in range(number):
        words = command_line(chance, known)
        status = main(words)
        printed = capsys.readouterr().err
        assert (status, printed.count("\n")) == (2, 1), (words, status, printed)
        assert len(printed) <= 301, words
        assert printed.startswith("nextpixel: error: "), words
    assert not list(tmp_path.iterdir())
