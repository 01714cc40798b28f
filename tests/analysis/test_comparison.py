"""Two sets of records: what agrees, what differs, and what can't be compared."""

import re
import sys
from pathlib import Path

import made
import pytest

from visionquant import cli
from visionquant.analysis import comparison
from visionquant.analysis.study import gather
from visionquant.core.errors import StudyError
from visionquant.records.record import Record
from visionquant.settings import params

MODEL = "vit-base-224-production"
ROUNDS = (0.998, 1.0, 1.002, 1.001)


def two(
    ms: float, environment: object = made.CPU, precisions: tuple[str, ...] = ("fp32", "fp16"), half: float = 0.5
) -> list[Record]:
    """Four rounds in which FP32 takes ``ms`` and each precision ``half`` of it."""
    found, base = [], [[ms * each] * 3 for each in ROUNDS]
    for precision in precisions:
        factor = 1.0 if precision == "fp32" else half
        times = [[factor * ms * each] * 3 for each in (ROUNDS if precision == "fp32" else ROUNDS[::-1])]
        found.append(made.record(MODEL, precision, [made.cell(1, times, base)], environment))  # type: ignore[arg-type]
    return found


def compared(root: Path, here: list[Record], there: list[Record]) -> dict[str, comparison.Agreement]:
    """By precision the agreement of medians, where they are compared, and by "precision/" that of speedups."""
    project = made.project(root)
    for one in here:
        made.write(project.record(one.model, one.precision), one)
    made.recorded_set(project, "other", there)
    study = gather(project, params.load(project))
    found = comparison.compare(study, comparison.set_named(study, "local"), comparison.set_named(study, "other"))
    return {one.precision + "/" * (one.quantity == "speedup"): one for one in found}


def test_the_same_machine_twice_agrees(tmp_path: Path) -> None:
    found = compared(tmp_path, two(100.0), two(100.2))
    assert {one.word for one in found.values()} == {"agrees"}
    assert list(found) == ["fp32", "fp16", "fp16/"]
    assert found["fp32"].ratio == pytest.approx(100.0 / 100.2)
    assert comparison.counted(list(found.values())) == (
        "3 of 3 compared cells agree, 0 differ, 0 are undecided; 0 are not comparable; "
        "of 1 speedups 1 have the same verdict, 0 lie outside the prediction"
    )


def test_a_slower_rerun_differs_in_its_times_and_not_in_its_speedups(tmp_path: Path) -> None:
    found = compared(tmp_path, two(130.0), two(100.0))
    assert {name: one.word for name, one in found.items()} == {"fp32": "differs", "fp16": "differs", "fp16/": "agrees"}
    assert found["fp16"].ratio == pytest.approx(1.3)
    assert "latency_median ratio 1.300 (1.2" in found["fp16"].text


def test_another_speedup_is_told_by_its_verdict_and_the_prediction(tmp_path: Path) -> None:
    found = compared(tmp_path, two(100.0), two(100.0, half=1.25))["fp16/"]
    assert (found.word, found.same_verdict, found.foreseen) == ("differs", False, False)
    assert found.ratio == pytest.approx(2.5)


def test_unlike_machines_are_compared_by_their_speedups_alone(tmp_path: Path) -> None:
    found = compared(tmp_path, two(100.0), two(4.0, made.CARD))
    assert found["fp32/"].word == "not comparable"
    assert "absolute figures" in found["fp32/"].why
    assert found["fp16/"].word == "agrees"
    found = compared(tmp_path / "b", two(100.0), two(4.0, made.CARD, half=0.25))
    assert found["fp16/"].word == "differs"
    assert found["fp16/"].ratio == pytest.approx(0.5)


def test_cells_before_rounds_are_compared_by_their_times_alone(tmp_path: Path) -> None:
    before = [made.record(MODEL, "fp16", [made.cell(1, [[50.0 * each] * 3 for each in ROUNDS])])]
    found = compared(tmp_path, two(100.0), before)
    assert found["fp16"].word == "agrees"
    assert (found["fp16/"].word, found["fp16/"].why) == ("not comparable", "recorded (other): before rounds")


def test_what_one_set_lacks_or_did_otherwise_is_not_comparable(tmp_path: Path) -> None:
    there = two(100.0)
    quantised = made.record(MODEL, "nf4", [made.cell(1, [[9.0] * 3] * 3)])
    assert quantised.settings.precision.method == "bitsandbytes_nf4"
    other = quantised.settings.precision.model_copy(update={"blocksize": 128})
    settings = quantised.settings.model_copy(update={"precision": other})
    found = compared(
        tmp_path, [*two(100.0), quantised], [there[0], quantised.model_copy(update={"settings": settings})]
    )
    assert found["fp16"].word == "not comparable"
    assert "not part of this set" in found["fp16"].why
    assert found["nf4"].why == "other precision row"


@pytest.mark.parametrize(
    ("update", "why"),
    [
        ({"variables": ("OMP_NUM_THREADS=1",)}, r"different settings of the machine: variables .*OMP_NUM_THREADS=1.*"),
        ({"variables": None}, "what sets the speed was not recorded: variables"),
        ({"cpu_quota": 1.0}, r"different settings of the machine: cpu_quota none \(not 1\.0\)"),
    ],
)
def test_other_or_unknown_settings_of_the_speed_leave_speedups_alone(
    tmp_path: Path, update: dict[str, object], why: str
) -> None:
    """FP32 with one thread there, with two here: 1.8 times as fast, and no verdict."""
    found = compared(tmp_path, two(100.0), two(183.0, made.CPU.model_copy(update=update)))
    assert found["fp32/"].word == "not comparable"
    assert re.fullmatch(f"{why}: absolute figures don't compare", found["fp32/"].why)
    assert found["fp16/"].word == "agrees"


def test_an_unknown_set_is_named(tmp_path: Path) -> None:
    project = made.project(tmp_path)
    study = gather(project, params.load(project))
    with pytest.raises(StudyError, match="compare: moon: no set of records has this name; sets: none"):
        comparison.set_named(study, "moon")


def test_sets_of_one_machine_are_compared_from_version_to_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = made.project(tmp_path)
    for day, name, version in ((3, "c", "2.15.0"), (1, "a", "2.13.0"), (2, "b", "2.13.0")):
        contents = []
        for one in two(100.0 + day, made.CPU.model_copy(update={"torch": version})):
            cells = [
                cell.model_copy(update={"rounds": tuple(
                    each.model_copy(update={"started_at": f"2026-01-{day:02}T0{each.number}:00:00.000+00:00"})
                    for each in cell.rounds
                )})
                for cell in one.cells
            ]  # fmt: skip
            contents.append(one.model_copy(update={"cells": tuple(cells)}))
        made.recorded_set(project, name, contents)
    made.recorded_set(project, "card", two(4.0, made.CARD.model_copy(update={"torch": "2.15.0"})))
    (pair,) = comparison.by_versions(gather(project, params.load(project)))
    assert (pair[0].name, pair[1].name, pair[2]) == ("b", "c", ["torch 2.15.0 (not 2.13.0)"])

    def said(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["visionquant", "compare", *words])
        with pytest.raises(SystemExit):
            cli.main()
        found = capsys.readouterr()
        return found.out + found.err

    monkeypatch.chdir(project.root)
    assert said("--by", "versions").startswith("recorded (b) over recorded (c): torch 2.15.0 (not 2.13.0)\n")
    for words in (("a",), (), ("a", "b", "--by", "versions")):
        assert "compare: it takes two sets, or --by versions" in said(*words)
