"""Measurements and the tables that are written from them; `evaluate --json` and `bench --json`."""

import json
from pathlib import Path

import pytest
from made_runs import make_run

import nextpixel
from nextpixel.cli import main
from nextpixel.errors import InputError
from nextpixel.results import tables
from nextpixel.results.measurement import Measurement, commit, read, read_all, write

ROOT = Path(nextpixel.__file__).parents[1]


@pytest.mark.parametrize("path", tables.pages(ROOT), ids=lambda path: path.name)
def test_tables_are_what_the_files_say(path):
    page = path.read_text(encoding="utf-8")
    assert page == tables.written(page, tables.specification(), read_all(), path), "make tables writes them anew"


def test_every_table_stands_on_a_page_and_every_measurement_in_a_table():
    text = "".join(path.read_text(encoding="utf-8") for path in tables.pages(ROOT))
    assert {name for name, _ in tables.TABLE.findall(text)} == set(tables.specification())
    used = {match[0] for match in tables.PLACE.findall(tables.SPECIFICATION.read_text(encoding="utf-8"))}
    assert used - {"NAME"} == set(read_all())


def test_a_table_follows_its_measurement():
    half = {"half": Measurement("half", 0.5, "nats", 0.25, also={"parameters": 12345})}
    spec = {"t": {"columns": ["", "nats"], "rows": [["a, {half.parameters:,}", "**{half:.2f}**"]]}}
    page = "before\n<!-- table: t -->\nold\n<!-- end -->\nafter\n"
    new = tables.written(page, spec, half)
    assert new == "before\n<!-- table: t -->\n| | nats |\n|---|---|\n| a, 12,345 | **0.50 ± 0.25** |\n<!-- end -->\nafter\n"
    assert tables.written(new, spec, half) == new
    for wrong, message in (
        (page.replace("table: t", "table: u"), "no table u"),
        (page.replace("<!-- end -->", ""), "without its end"),
    ):
        with pytest.raises(InputError, match=message):
            tables.written(wrong, spec, half)
    for text, message in (("{other:.2f}", "no measurement other"), ("{half.seed}", "has no seed")):
        with pytest.raises(InputError, match=message):
            tables.cell(text, half)


def test_a_measurement_is_read_as_it_was_written(tmp_path):
    found = Measurement("a", 1.5, "nats", 0.1, 10, "nextpixel evaluate a", "0" * 40, "m", 2.0, 3, {"split": "test"})
    write(found, tmp_path / "a.json")
    assert read(tmp_path / "a.json") == found
    assert read_all(tmp_path) == {"a": found}
    write(found, tmp_path / "b.json")
    with pytest.raises(InputError, match=r"b\.json holds a"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"figure": "1"}, "figure is '1', expected float"),
        ({"figure": float("nan")}, "must be finite"),
        ({"sead": 1}, "unknown field sead"),
        ({"unit": None}, "unit is None, expected str"),
        (None, "must hold one measurement"),
    ],
)
def test_files_that_are_no_measurement(tmp_path, change, message):
    plain = {"name": "a", "figure": 1.0, "unit": "nats"}
    (tmp_path / "a.json").write_text(json.dumps([] if change is None else {**plain, **change}), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.json")


def test_a_commit_is_that_of_the_checkout_or_none():
    assert commit() is None if not (ROOT / ".git").exists() else len(commit().removesuffix("-dirty")) == 40


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "run"
    make_run(folder)
    return folder


def test_evaluate_writes_what_it_prints(run, tmp_path, capsys):
    out = tmp_path / "run.json"
    assert main(["evaluate", str(run), "--json", str(out)]) == 0
    printed, found = capsys.readouterr().out, read(out)
    assert found.unit == "bits/dim"
    assert found.images == 180
    assert found.text(".4f") in printed
    assert f"{found.also['nats_per_image']:.3f} ± {found.also['nats_per_image_standard_error']:.3f}" in printed
    assert found.command == f"nextpixel evaluate {run} --json {out}"
    assert found.seconds > 0
    assert found.machine.count("torch") == 1
    assert found.also["data"] == "digits"
    assert found.also["split"] == "test"
    uniform = found.also["baselines"]["uniform"]
    assert f"{uniform:.4f}" in printed


def test_evaluate_to_stdout_is_json_alone(run, capsys):
    assert main(["evaluate", str(run), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["images"] == 180
    assert "bits/dim" in err


def test_a_json_file_that_exists_is_refused(run, tmp_path, refuse):
    out = tmp_path / "run.json"
    out.write_text("mine", encoding="utf-8")
    assert "exists already" in refuse(["evaluate", run, "--json", out])
    assert out.read_text(encoding="utf-8") == "mine"
    assert main(["evaluate", str(run), "--json", str(out), "--force"]) == 0
    assert read(out).images == 180


def test_bench_gives_a_measurement_for_each_batch(tmp_path, capsys):
    words = "bench pixelcnn --preset tiny --batch [1,2] --rounds 1 --no_naive --training_batch 2 --json - --out"
    assert main([*words.split(), str(tmp_path / "bench")]) == 0
    found = [Measurement(**one) for one in json.loads(capsys.readouterr().out)]
    assert [(one.unit, one.also["batch"]) for one in found] == [("seconds", 1), ("seconds", 2), ("milliseconds per image", 2)]
    assert all(one.figure > 0 and one.command.startswith("nextpixel bench pixelcnn") for one in found)
    assert len({one.name for one in found}) == 3
