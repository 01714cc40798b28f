"""Bad input at the command line: one line that names the offender and what to do, exit code 1, nothing lost."""

import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made
import pytest
import tiny
from typer.main import get_command

from visionquant import cli
from visionquant.cli import progress
from visionquant.cli.common import app
from visionquant.core import processors
from visionquant.core.paths import Project
from visionquant.records import cell as cells
from visionquant.records import record as records
from visionquant.settings import params as parameters

Edit = Callable[[dict[str, Any]], None]
Run = Callable[..., tuple[int, str, str]]


def quiet(patch: pytest.MonkeyPatch) -> None:
    """Whatever else runs on the machine of these tests, no slot of theirs is busy."""
    for name in ("BUSY_OTHERS", "BUSY_STEAL", "BUSY_PRESSURE"):
        patch.setattr(cells, name, math.inf)


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command as installed, in this process: (exit code, stdout, stderr)."""

    def call(root: Path, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(root)
        monkeypatch.setattr("sys.argv", ["visionquant", *arguments])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        out, err = capfd.readouterr()
        return code, out, err

    return call


def edited(root: Path, edit: Edit) -> Project:
    raw = tiny.settings(("tiny-vit",), ("nf4",))
    edit(raw)
    project, _ = (Project(root), None)
    if not (root / "data").exists():
        project, _ = tiny.project(root, tiny.settings(("tiny-vit",), ("nf4",)))
    tiny.write_settings(root, raw)
    return project


def at(*path: str, to: Any) -> Edit:
    def edit(raw: dict[str, Any]) -> None:
        row: Any = raw
        for name in path[:-1]:
            row = row[name]
        row[path[-1]] = to

    return edit


def without(*path: str) -> Edit:
    def edit(raw: dict[str, Any]) -> None:
        row: Any = raw
        for name in path[:-1]:
            row = row[name]
        del row[path[-1]]

    return edit


BAD_SETTINGS: list[tuple[str, Edit, str]] = [
    ("unknown model", at("study", "models", to=["tiny-vitt"]), r"models: no row named tiny-vitt; did you mean tiny"),
    ("unknown precision", at("study", "precisions", to=["int3"]), r"precisions: no row named int3; .*rows: fp32"),
    ("unknown protocol", at("study", "protocol", to="slow"), r"study\.protocol: no row named slow"),
    ("unknown key", at("study", "modles", to=["tiny-vit"]), r"study\.modles: unknown key.*did you mean models"),
    ("unknown top key", at("studdy", to={}), r"studdy: unknown key.*study"),
    ("unknown knob", at("precisions", "nf4", "block", to=64), r"precisions\.nf4\.block: unknown key.*blocksize"),
    ("unknown method", at("precisions", "nf4", "method", to="gptq"), r"nf4\.method: gptq is no method.*_nf4"),
    ("missing key", without("protocols", "tiny", "threads"), r"protocols\.tiny\.threads: missing"),
    ("wrong type", at("protocols", "tiny", "rounds", to="three"), r"tiny\.rounds: .*integer.*'three'"),
    ("empty list", at("study", "models", to=[]), r"study\.models: .*at least 1"),
    ("batch size 0", at("study", "batch_sizes", to=[0, 1]), r"study\.batch_sizes\.0: .*greater than.*found 0"),
    ("twice", at("study", "models", to=["tiny-vit", "tiny-vit"]), r"study\.models: tiny-vit stands there twice"),
    ("unknown device", at("study", "device", to="tpu"), r"study\.device: .*'auto', 'cpu' or 'cuda'.*'tpu'"),
    ("short revision", at("models", "tiny-vit", "revision", to="main"), r"models\.tiny-vit\.revision: .*found 'main'"),
    ("no source", without("models", "tiny-vit", "repo_id"), r"models\.tiny-vit: needs exactly one of repo_id"),
    ("no graphics card", at("study", "device", to="cuda"), r"device.*cuda"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), [row[1:] for row in BAD_SETTINGS], ids=[row[0] for row in BAD_SETTINGS])
def test_a_bad_setting_is_one_line_that_names_it(tmp_path: Path, run: Run, edit: Edit, message: str) -> None:
    edited(tmp_path, edit)
    before = set(tmp_path.rglob("*"))
    code, out, err = run(tmp_path, "sweep", "--all-models", "--all-precisions")
    assert (code, out) == (1, "")
    assert err.startswith("visionquant: ")
    assert err.count("\n") == 1
    assert re.search(message, err)
    assert {path for path in tmp_path.rglob("*") if not path.name.startswith(".lock")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep",), "sweep: models: nothing chosen; give --all-models"),
        (("sweep", "--all-models"), "sweep: precisions: nothing chosen"),
        (("sweep", "--model", "tiny-vit", "--all-models", "--all-precisions"), "together"),
        (("sweep", "--model", "resnet", "--all-precisions"), "no row named resnet"),
        (("measure", "--model", "tiny-vit", "--precision", "nf5"), "no row named nf5; did you mean nf4"),
        (("download", "--model", "tiny"), "no row named tiny; .*rows: "),
        (("sample",), "run `visionquant environment`"),
        (("measure", "--model", "tiny-vit", "--precision", "nf4"), "samples/tiny-vit-nf4"),
    ],
)
def test_a_bad_argument_is_one_line(tmp_path: Path, run: Run, arguments: tuple[str, ...], message: str) -> None:
    edited(tmp_path, lambda raw: None)
    code, _, err = run(tmp_path, *arguments)
    assert code == 1
    assert err.count("\n") == 1
    assert re.search(message, err)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("study.device", r"--set study\.device: no key and value; write e\.g\. --set study\.device=cuda"),
        ("=cuda", r"--set =cuda: no key and value"),
        ("study..device=cuda", r"--set study\.\.device=cuda: no key and value"),
        ("study.modles=[a]", r"params\.yaml: study\.modles: unknown key.*did you mean models"),
        ("studdy.device=cpu", r"params\.yaml: studdy: unknown key"),
        ("study.device.kind=cpu", r"--set study\.device\.kind=cpu: study\.device has no keys.*--set study\.device="),
        ("study.models.0=tiny-deit", r"study\.models has no keys of its own; give all of it"),
        ("study.models=[tiny-vitt]", r"study\.models: no row named tiny-vitt; did you mean tiny-vit"),
        ("protocols.tiny.rounds=three", r"protocols\.tiny\.rounds: .*integer.*'three'"),
        ("study.models=[a", r"--set study\.models: not YAML at line \d; mend it there, or put it into quotes"),
        ("protocols.tiny={}", r"protocols\.tiny\.rounds: missing"),
    ],
)
def test_a_bad_override_is_one_line_and_measures_nothing(tmp_path: Path, run: Run, override: str, message: str) -> None:
    edited(tmp_path, lambda raw: None)
    before = set(tmp_path.rglob("*"))
    code, out, err = run(tmp_path, "sweep", "--all-models", "--all-precisions", "--set", override)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert re.search(message, err)
    assert set(tmp_path.rglob("*")) == before


def test_overrides_are_what_the_record_says_was_asked_and_results_go_where_they_are_sent(
    tmp_path: Path, run: Run
) -> None:
    """The settings and the data of the checkout stay as they are; the set is packed from the folder."""
    project = edited(tmp_path, lambda raw: None)
    settings, data = project.params.read_bytes(), set((tmp_path / "data").rglob("*"))
    words = ("--set", "protocols.tiny.rounds_of_batches=1", "--set", "study.batch_sizes=[3]", "--results", "out")
    assert run(tmp_path, "sweep", "--all-models", "--all-precisions", *words)[0] == 0
    record = records.read(Project(tmp_path, results=tmp_path / "out").record("tiny-vit", "nf4"))
    assert record.under["protocol"] == parameters.load(project, words[1::2][:1]).protocol
    assert [(cell.batch_size, len(cell.rounds)) for cell in record.cells] == [(3, 1)]
    assert (project.params.read_bytes(), set((tmp_path / "data").rglob("*"))) == (settings, data)
    assert run(tmp_path, "plan", *words) == (0, "nothing to measure\n", "")
    assert "batch 3" in run(tmp_path, "plan", "--set", "study.batch_sizes=[3]", "--results", "out")[1]
    assert "batch 2" in run(tmp_path, "plan")[1]
    code, out, _ = run(tmp_path, "record", "--platform", "tiny-box", *words)
    assert (code, out) == (0, "data/machines/tiny-box: 2 files and a manifest\n")
    assert "2 of 2 pairs" not in run(tmp_path, "record", "--platform", "tiny-two", "--results", "out")[2]


def test_every_verb_that_measures_or_prepares_takes_overrides_and_results() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    taking = {
        name
        for name, command in commands.items()
        if {"--set", "--results"} <= {option for parameter in command.params for option in parameter.opts}
    }
    assert taking >= {"environment", "download", "sample", "measure", "sweep", "plan", "train", "evaluate"}
    assert taking >= {"evaluate-pretrained", "record"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep", "--all-models", "--all-precisions", "--batch-size", "0"), "--batch-size.*1"),
        (("sweep", "--all-models", "--all-precisions", "--batch-size", "few"), "--batch-size.*integer"),
        (("download",), "--model"),
        (("sweep", "--speed"), "--speed"),
        (("swep",), "swep.*sweep"),
    ],
)
def test_words_that_are_no_command_are_one_line_and_exit_with_two(
    tmp_path: Path, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    edited(tmp_path, lambda raw: None)
    code, _, err = run(tmp_path, *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(rf"visionquant: .*{message}.*; see `visionquant --help`", err)


def test_without_words_the_command_shows_its_help(tmp_path: Path, run: Run) -> None:
    assert "sweep" in run(tmp_path)[1]
    code, out, err = run(tmp_path, "--help")
    assert (code, err) == (0, "")
    assert "sweep" in out


def test_outside_a_checkout_the_command_says_so(tmp_path: Path, run: Run) -> None:
    code, _, err = run(tmp_path, "environment")
    assert code == 1
    assert re.search(r"no params\.yaml in .* or above it; change into a checkout", err)


def test_settings_that_are_no_yaml_name_the_line(tmp_path: Path, run: Run) -> None:
    (tmp_path / "params.yaml").write_text("study:\n  models: [a\n  b: c\n")
    code, _, err = run(tmp_path, "environment")
    assert code == 1
    assert re.search(r"params\.yaml: not YAML at line \d", err)


def test_a_sweep_measures_goes_on_and_keeps_what_it_has(tmp_path: Path, run: Run) -> None:
    project = edited(tmp_path, lambda raw: None)
    code, out, _ = run(tmp_path, "sweep", "--all-models", "--all-precisions")
    assert code == 0
    assert re.search(r"^tiny-vit batch 1, round 2 of 2: .*nf4 \d+\.\d\d ms; \d+ % done, \d+ s left$", out, re.M)
    assert "tiny-vit nf4 (seeded weights)" in out
    before = kept(project)
    code, out, _ = run(tmp_path, "sweep", "--model", "tiny-vit", "--precision", "nf4")
    assert "nothing was measured: all samples are there; --again takes them anew\n" in out
    assert (code, kept(project)) == (0, before)
    code, out, _ = run(tmp_path, "sample", "--batch-size", "1", "--again")
    assert (code, "2 rounds measured" in out) == (0, True)
    assert kept(project) != before
    assert run(tmp_path, "measure")[0] == 0
    assert [len(cell.rounds) for cell in records.read(project.record("tiny-vit", "nf4")).cells] == [2, 2]


def kept(project: Project) -> dict[str, bytes]:
    """What was sampled and recorded."""
    paths = [*project.local.glob("samples/*"), *project.local.glob("latency/*")]
    return {path.name: path.read_bytes() for path in paths}


def test_some_rounds_or_minutes_at_a_time_come_to_the_same_study(tmp_path: Path, run: Run) -> None:
    project = edited(tmp_path, lambda raw: None)
    code, _, err = run(tmp_path, "sweep", "--all-models", "--all-precisions", "--minutes", "0")
    assert (code, err) == (75, "visionquant: 0 minutes are over; the same command goes on from here\n")
    assert run(tmp_path, "sample", "--rounds", "1")[0] == 0
    assert run(tmp_path, "measure")[0] == 0
    assert [len(cell.rounds) for cell in records.read(project.record("tiny-vit", "nf4")).cells] == [1]
    assert run(tmp_path, "sample")[0] == 0
    assert run(tmp_path, "measure")[0] == 0
    assert [len(cell.rounds) for cell in records.read(project.record("tiny-vit", "nf4")).cells] == [2, 2]


def test_what_waits_for_a_quieter_machine_is_tried_in_three_runs(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that is never quiet enough; plain sampling says what waits and leaves it alone."""

    def own_choice(raw: dict[str, Any]) -> None:
        raw["study"]["batch_sizes"], raw["protocols"]["tiny"]["threads"] = [1], None

    project = edited(tmp_path, own_choice)
    with monkeypatch.context() as patch:
        patch.setattr(cells, "BUSY_OTHERS", -1.0)
        assert run(tmp_path, "sweep", "--all-models", "--all-precisions")[0] == 0
        (cell,) = records.read(project.record("tiny-vit", "nf4")).cells
        assert (cell.status, cell.planned) == ("busy", 2)
        before = kept(project)
        out = run(tmp_path, "sample")[1].splitlines()
        if (cores := processors.usable()) > 1:
            assert f"--set protocols.tiny.threads={cores - 1} leaves it one" in out.pop()
        assert (
            out[-2]
            == "nothing was measured: all samples are there that this machine gives now; --again takes them anew"
        )
        assert out[-1].startswith(
            "1 cells wait for a quieter machine, e.g. tiny-vit nf4 at batch size 1 (others were busy"
        )
        assert out[-1].endswith("`make repro` or `visionquant sweep` tries them again")
        assert kept(project) == before
    assert run(tmp_path, "sample", "--retry")[0] == 0
    assert run(tmp_path, "measure")[0] == 0
    (cell,) = records.read(project.record("tiny-vit", "nf4")).cells
    assert cell.status == "ok"


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one pair, swept."""
    root = tmp_path_factory.mktemp("once")
    edited(root, lambda raw: None)
    with pytest.MonkeyPatch.context() as patch:
        quiet(patch)
        patch.chdir(root)
        patch.setattr("sys.argv", ["visionquant", "sweep", "--all-models", "--all-precisions"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert not stop.value.code
    return root


@pytest.fixture
def swept(once: Path, tmp_path: Path) -> Project:
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path)


BROKEN: list[tuple[str, Callable[[str], str], str]] = [
    ("cut short", lambda text: text[: len(text) // 2], "not JSON"),
    ("another schema", lambda text: text.replace('version": 5', 'version": 99'), "schema 99, this code reads 1 to 5"),
    ("a field that nobody knows", lambda text: text.replace('"model"', '"modle"', 1), "modle|model"),
    ("a status that nobody knows", lambda text: re.sub(r'"status": "\w+"', '"status": "fine"', text), "cells.0.status"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_a_broken_record_is_named_and_made_again_from_its_samples(
    swept: Project, run: Run, damage: Callable[[str], str], message: str
) -> None:
    path = swept.record("tiny-vit", "nf4")
    whole, broken = path.read_bytes(), damage(path.read_text())
    path.write_text(broken)
    for verb in ("analyse", "validate"):
        code, _, err = run(swept.root, verb)
        assert (code, err.count("\n"), path.read_text()) == (1, 1, broken)
        assert re.search(rf"tiny-vit-nf4\.json.*({message})", err)
    assert run(swept.root, "measure")[0] == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize("verb", ["analyse", "measure", "sample"])
def test_broken_samples_are_named_and_kept(swept: Project, run: Run, verb: str) -> None:
    path = swept.samples("tiny-vit", "nf4")
    path.write_bytes(path.read_bytes()[:-9])
    before = kept(swept)
    code, _, err = run(swept.root, verb)
    assert (code, err.count("\n"), kept(swept)) == (1, 1, before)
    assert "samples/tiny-vit-nf4.json.gz" in err


@pytest.mark.parametrize("verb", ["analyse", "validate", "sample"])
def test_another_machines_record_among_this_ones_is_refused(tmp_path: Path, run: Run, verb: str) -> None:
    swept = edited(tmp_path, at("study", "precisions", to=["fp32", "nf4"]))
    assert run(tmp_path, "sweep", "--all-models", "--all-precisions")[0] == 0
    path = swept.record("tiny-vit", "nf4")
    raw = json.loads(path.read_text())
    raw["environment"] |= {"cpu": "Another CPU"}
    if verb == "sample":  # then it is this machine that is not the declared one
        declared = json.loads(swept.environment.read_text())
        swept.environment.write_text(json.dumps(declared | {"cpu": "Another CPU"}))
    else:
        path.write_text(json.dumps(raw))
    before = path.read_bytes()
    code, _, err = run(swept.root, verb)
    assert code == 1
    assert err.count("\n") == 1
    assert "Another CPU" in err
    assert path.read_bytes() == before


def test_a_full_disk_keeps_the_old_samples(swept: Project, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = kept(swept)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, _, err = run(swept.root, "sample", "--again")
    assert (code, err.count("\n")) == (1, 1)
    assert "No space left on device; free space" in err
    assert kept(swept) == before
    assert records.read(swept.record("tiny-vit", "nf4")).cells


@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root may write anywhere, and setpriv is not there"
)
def test_a_read_only_folder_is_one_line(swept: Project) -> None:
    """As root with the right to override permissions taken away, or as anyone else."""
    before = kept(swept)
    plain = [sys.executable, "-c", "from visionquant.cli import main; main()", "sample", "--again"]
    limited = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    (swept.local / "samples").chmod(0o500)
    try:
        done = subprocess.run([*limited, *plain], cwd=swept.root, capture_output=True, text=True)
    finally:
        (swept.local / "samples").chmod(0o700)
    assert done.returncode == 1
    assert "Permission denied; free space or make the folder writable" in done.stderr.splitlines()[-1]
    assert kept(swept) == before


def test_a_file_in_place_of_the_data_folder_is_one_line(swept: Project, run: Run) -> None:
    swept.tables.parent.mkdir(exist_ok=True)
    swept.tables.write_text("in the way")
    code, _, err = run(swept.root, "analyse")
    assert code == 1
    assert err.count("\n") == 1
    assert "reports/tables" in err
    assert swept.tables.read_text() == "in the way"


def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = edited(tmp_path, lambda raw: None)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress.Lines, "round", interrupted)
        code, _, err = run(tmp_path, "sweep", "--all-models", "--all-precisions")
    assert code == 130
    assert err == "visionquant: interrupted; finished rounds are kept, the same command goes on from there\n"
    first = records.read_samples(project.samples("tiny-vit", "nf4")).cells[0].rounds
    assert len(first) == 1
    assert run(tmp_path, "sweep", "--all-models", "--all-precisions")[0] == 0
    cell = records.read(project.record("tiny-vit", "nf4")).cells[0]
    assert (cell.rounds[:1], len(cell.rounds)) == (first, 2)


def test_a_model_of_ones_own_is_a_row_and_nothing_else(tmp_path: Path, run: Run) -> None:
    from transformers import ViTConfig, ViTModel

    config = {name: value for name, value in tiny.CONFIGS["tiny-vit"].items() if name != "model_type"}
    ViTModel(ViTConfig(**config)).save_pretrained(tmp_path / "mine")

    def add(raw: dict[str, Any]) -> None:
        raw["models"]["my-vit"] = {"path": "mine", "input_size": 32}
        raw["study"] |= {"models": ["my-vit"], "precisions": ["fp32", "nf4"], "weights": "auto"}

    project = edited(tmp_path, add)
    code, out, _ = run(tmp_path, "sweep", "--all-models", "--all-precisions")
    assert code == 0
    assert "my-vit nf4 (pretrained weights)" in out
    record = records.read(project.record("my-vit", "nf4"))
    assert record.settings.weights.source == "local folder mine"
    assert record.fidelity is not None
    assert record.fidelity.cosine is not None
    assert record.fidelity.cosine > 0.9


def test_a_plan_says_what_is_missing_and_measures_nothing(swept: Project, run: Run) -> None:
    assert run(swept.root, "plan") == (0, "nothing to measure\n", "")
    swept.samples("tiny-vit", "nf4").unlink()
    code, out, _ = run(swept.root, "plan")
    assert code == 0
    assert out.startswith("tiny-vit: batch 1: 2 rounds, batch 2: 2 rounds; ")
    assert not swept.samples("tiny-vit", "nf4").exists()


def test_a_set_is_recorded_and_compared(swept: Project, run: Run) -> None:
    code, out, err = run(swept.root, "record", "--platform", "tiny-box")
    assert (code, err) == (0, "")
    assert out == "data/machines/tiny-box: 2 files and a manifest\n"
    code, out, _ = run(swept.root, "compare", "local", "tiny-box")
    assert code == 0
    assert re.match(
        r"\d of \d compared cells agree, 0 differ, \d are undecided; 0 are not comparable", out.splitlines()[-1]
    )
    code, _, err = run(swept.root, "compare", "local", "moon")
    assert code == 1
    assert "compare: moon: no set of records has this name; sets: local, tiny-box" in err


def test_verify_names_what_is_missing_and_exits_with_one(swept: Project, run: Run) -> None:
    shutil.copytree(tiny.ROOT / "data" / "published", swept.root / "data" / "published")
    (swept.root / "notebooks").mkdir()
    (swept.root / "notebooks" / "01_study.ipynb").write_text((tiny.ROOT / "notebooks" / "01_study.ipynb").read_text())
    code, out, err = run(swept.root, "verify")
    assert code == 1
    assert "reports/tables/cells.csv: missing" in out
    assert "reports/notebooks/01_study.ipynb: missing" in out
    assert re.search(r"verify: \d+ files do not belong; run `dvc repro`", err)
    for verb in ("analyse", "claims", "notebooks", "report"):
        assert run(swept.root, verb)[0] == 0
    code, out, _ = run(swept.root, "verify")
    assert (code, out) == (0, "records, settings, code, tables, notebooks and pages belong together\n")


@pytest.mark.parametrize(("factor", "code", "word"), [(0.4, 1, "refuted"), (None, 0, "not comparable")])
def test_validate_fails_only_where_comparable_figures_differ(
    tmp_path: Path, run: Run, factor: float | None, code: int, word: str
) -> None:
    """On the published card a dinov2-large that is 2.50 times faster in FP16 is refuted; on a CPU nothing can be."""
    machine = made.CPU if factor is None else made.CARD
    made.study(tmp_path, {"fp32": 1.0, "fp16": factor or 0.4, "int8": 2.0, "nf4": 2.0}, machine)
    found, out, _ = run(tmp_path, "validate")
    assert found == code
    assert len(out.splitlines()) == 3
    assert f"dinov2_large_fp16_speedup [local]: {word}" in out
