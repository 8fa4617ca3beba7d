"""Models to and from the hub, against a server on this machine that speaks its calls."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN, serve
from huggingface_hub import ModelCard, constants
from made_runs import make_run

import nextpixel
from nextpixel.cli import main
from nextpixel.errors import InputError
from nextpixel.models.base import AutoregressiveModel
from nextpixel.results.measurement import Measurement, write


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of its own, and a token that it accepts."""
    with serve() as (address, held):
        for name, value in {
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        held.address = address
        yield held


def tiny(seed=0, **options):
    torch.manual_seed(seed)
    return nextpixel.PixelCNN(shape=(1, 8, 8), levels=2, **{"features": 4, "blocks": 1, **options}).eval()


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_there_and_back(hub):
    first, second = tiny(1), tiny(2)
    url = first.push_to_hub("mia/tiny")
    commit = url.rpartition("/")[2]
    assert url == f"{hub.address}/mia/tiny/commit/{commit}"
    assert same(nextpixel.load("mia/tiny"), first)
    second.push_to_hub("mia/tiny")
    assert same(nextpixel.load("mia/tiny"), second)
    assert same(nextpixel.load("mia/tiny", revision=commit), first)
    assert set(hub.find("mia/tiny", "main")[1]) == {".gitattributes", "config.json", "model.safetensors", "README.md"}
    assert any(path.startswith("/lfs/") for _, path in hub.asked)


def test_a_branch_and_a_private_repository(hub, monkeypatch):
    main_one, other = tiny(1), tiny(2)
    main_one.push_to_hub("mia/secret", private=True)
    other.push_to_hub("mia/secret", branch="wide")
    assert hub.private["mia/secret"]
    assert same(nextpixel.load("mia/secret"), main_one)
    assert same(nextpixel.PixelCNN.from_pretrained("mia/secret", revision="wide"), other)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", constants.HF_HUB_CACHE + "-2")
    with pytest.raises(InputError, match="no such repository, or it is private"):
        nextpixel.load("mia/secret", token=False)


def test_usual_names(hub, tmp_path):
    model = tiny()
    assert model.save_pretrained(tmp_path / "tiny") is None
    assert same(nextpixel.PixelCNN.from_pretrained(tmp_path / "tiny"), model)
    assert same(AutoregressiveModel.from_pretrained(str(tmp_path / "tiny")), model)
    with pytest.raises(InputError, match=r"is a PixelCNN, not a GatedPixelCNN: PixelCNN\.from_pretrained or nextpixel\.load"):
        nextpixel.GatedPixelCNN.from_pretrained(tmp_path / "tiny")
    assert "/mia/tiny/commit/" in model.save_pretrained(tmp_path / "tiny", push_to_hub=True, repo_id="mia/tiny")
    with pytest.raises(InputError, match="revision v1 is one of the hub"):
        nextpixel.load(tmp_path / "tiny", revision="v1")


def test_push_a_run_with_its_figures(hub, tmp_path, capsys):
    model = make_run(tmp_path / "run")
    also = {"data": "/home/me/digits", "split": "test", "nats_per_image": 90.5, "nats_per_image_standard_error": 0.5}
    write(Measurement("run", 2.04, "bits/dim", 0.01, 180, also=also), tmp_path / "run" / "result.json")
    words = ["push", str(tmp_path / "run"), "lab/digits", "--license", "mit", "--revision", "v1", "--private"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{hub.address}/lab/digits/commit/")
    assert "no figures" not in err
    assert hub.private["lab/digits"]
    assert same(nextpixel.load("lab/digits", revision="v1"), model)
    card = ModelCard(hub.find("lab/digits", "v1")[1]["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("nextpixel", "unconditional-image-generation")
    assert (card.data.license, card.data.model_name) == ("mit", "digits")
    assert [(one.metric_type, one.metric_value) for one in card.data.eval_results] == [
        ("bits/dim", 2.04),
        ("nats per image", 90.5),
    ]
    assert {(one.dataset_name, one.dataset_split) for one in card.data.eval_results} == {("digits", "test")}
    assert "/home/me" not in card.content
    assert 'nextpixel.load("lab/digits")' in card.content


def test_push_without_figures_says_so(hub, tmp_path, capsys):
    make_run(tmp_path / "run")
    assert main(["push", str(tmp_path / "run"), "mia/run"]) == 0
    err = capsys.readouterr().err
    assert "no figures in the card" in err
    assert "no licence in the card" in err
    assert ModelCard(hub.find("mia/run", "main")[1]["README.md"].decode()).data.eval_results is None


@pytest.mark.parametrize(
    ("repo", "revision", "token", "message"),
    [
        ("mia/nothing", None, TOKEN, "could not be fetched from the hub: .* has no such repository"),
        ("mia/tiny", "v9", TOKEN, "tiny at v9 .*: it has no revision v9"),
        ("mia/tiny", None, "hf_wrong", "refuses the token: set HF_TOKEN"),
        ("mia/bert", None, TOKEN, "mia/bert on the hub holds no model of nextpixel: expected config.json"),
        ("mia/empty", None, TOKEN, "mia/empty on the hub holds no model of nextpixel: it has no config.json"),
        ("mia/half", None, TOKEN, "holds no model of nextpixel: it has config.json, but no model.safetensors"),
        ("mia/a--b", None, TOKEN, "mia/a--b is no repository, expected owner/name"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(hub, repo, revision, token, message):
    tiny().push_to_hub("mia/tiny")
    hub.add("mia/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x" * 1000})
    hub.add("mia/empty", {"README.md": b"nothing"})
    hub.add("mia/half", {"config.json": json.dumps({"model": "pixelcnn", **tiny().config}).encode()})
    with pytest.raises(InputError, match=message) as caught:
        nextpixel.load(repo, revision=revision, token=token)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert ("GET", "/mia/bert/resolve/main/model.safetensors") not in hub.asked
    assert not [path for verb, path in hub.asked if "mia/bert" in path and path.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        ("mia/tiny", "hf_wrong", "cannot push to mia/tiny: .* refuses the token: set HF_TOKEN"),
        ("mia/tiny", False, "refuses the token|no token"),
        ("else/tiny", TOKEN, "the token has no right to do so"),
        ("a/b/c", TOKEN, "a/b/c is no repository, expected owner/name"),
    ],
)
def test_what_cannot_be_pushed_is_one_line(hub, repo, token, message):
    with pytest.raises(InputError, match=message) as caught:
        tiny().push_to_hub(repo, token=token)
    assert "\n" not in str(caught.value)
    assert hub.repos == {}


def test_without_network(hub, monkeypatch):
    model = tiny()
    model.push_to_hub("mia/tiny")
    assert same(nextpixel.load("mia/tiny"), model)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert same(nextpixel.load("mia/tiny"), model)  # from the cache
    for call in (lambda: nextpixel.load("mia/other"), lambda: model.push_to_hub("mia/tiny")):
        with pytest.raises(InputError, match=r"no connection to http://127\.0\.0\.1:9$"):
            call()
    with pytest.raises(InputError, match="not in the cache"):
        nextpixel.load("mia/other", local_files_only=True)


def test_the_command_line_in_a_process_of_its_own(hub, tmp_path):
    make_run(tmp_path / "run")
    root = Path(nextpixel.__file__).parents[1]
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(root)}

    def call(*words, **more):
        command = [sys.executable, "-m", "nextpixel", *words]
        return subprocess.run(command, env={**os.environ, **own, **more}, capture_output=True, text=True, check=False)

    done = call("push", str(tmp_path / "run"), "mia/run", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    wrong = call("push", str(tmp_path / "run"), "mia/run", HF_TOKEN="hf_wrong")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("nextpixel: error: cannot push to mia/run")
    assert "Traceback" not in wrong.stderr
    drawn = call("sample", "mia/run", "-n", "1", "--out", str(tmp_path / "x.npy"))
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "x.npy").is_file()
