"""The frame: every cell once, as files and back; what is compared of pairs that stop at different counts."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import made
import pandas as pd
import pytest
import tiny
from pandas.testing import assert_frame_equal

from visionquant.analysis import frame, frame_files
from visionquant.analysis.study import Study, gather, open_study
from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.quantities import quantity
from visionquant.records import record as records
from visionquant.records.cell import Cell
from visionquant.settings import params

FACTORS = {"fp32": 1.0, "fp16": 0.5, "int8": 2.0, "nf4": 1.01}
MODEL = "vit-base-224-production"
KEY = [*frame.CELL, "quantity"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return made.study(tmp_path_factory.mktemp("study"), FACTORS)


def test_every_figure_stands_once_with_a_value_or_a_reason(study: Study) -> None:
    found = study.frame
    assert list(found.columns) == frame.COLUMNS
    assert not found.duplicated(KEY).any()
    assert study.cells.value.notna().all()
    assert study.missing.value.isna().all()
    assert (study.missing.reason != "").all()
    medians = study.cells[(study.cells.quantity == "latency_median") & (study.cells.source == "local")]
    assert len(medians) == 320
    assert ((medians.low < medians.value) & (medians.value < medians.high)).all()
    printed = study.cells[(study.cells.quantity == "latency_median") & (study.cells.source == "published")]
    assert (len(printed), set(printed.batch_size)) == (64, {1})
    assert all(quantity(name).unit for name in set(found.quantity))


def test_a_number_and_its_verdict_have_one_row_and_a_table_one_pivot(study: Study) -> None:
    found = study.pivot("local", "speedup", study.compared, 8)
    assert found.shape == (16, 3)
    assert set(found["fp16"].map(lambda box: box.verdict)) == {"FASTER"}
    assert {box.reason for box in found["fp16"]} == {study.row("local", MODEL, "fp16", 8, "speedup").reason}
    assert "after Holm over 48 contrasts" in study.row("local", MODEL, "fp16", 8, "speedup").reason
    words = study.select(source="local", quantity="speedup", batch_size=8, precision=["fp16", "int8"]).verdict
    assert dict(words.value_counts()) == {"FASTER": 16, "SLOWER": 16}


def test_a_precision_in_two_tables_has_a_verdict_in_each(study: Study) -> None:
    bracket = study.row("local", MODEL, "int8", 1, "speedup_in_bracket")
    assert bracket.value == study.value("local", MODEL, "int8", 1, "speedup")
    assert "after Holm over 16 contrasts" in bracket.reason


def test_quantities_of_a_model_are_found_at_every_batch_size(study: Study) -> None:
    assert study.value("local", MODEL, "int8", 8, "cosine") == study.value("local", MODEL, "int8", 0, "cosine") == 0.99
    assert set(study.select(quantity="cosine", batch_size=8, source="local").batch_size) == {0}
    assert study.row("local", MODEL, "int8-outliers", 1, "speedup").reason == "not part of the study"


def test_statistics_over_models_are_those_of_the_rows(study: Study) -> None:
    column = pd.Series(study.column("local", "speedup", "fp16", batch_size=4))
    for name, expected in (("mean", column.mean()), ("std", column.std()), ("p95", column.quantile(0.95))):
        found = study.value("local", "all models", "fp16", 4, f"speedup_over_models_{name}")
        assert found == pytest.approx(expected)
    assert study.value("published", "all models", "fp16", 1, "speedup_over_models_mean") == 1.33
    edge = study.published.group("edge")
    found = study.value("local", "edge (as listed)", "fp16", 1, "speedup_over_models_median")
    assert found == pytest.approx(column[list(edge)].median())


def test_p50_is_the_median_with_the_medians_interval(study: Study) -> None:
    p50, median = (study.row("local", MODEL, "fp16", 8, name) for name in ("latency_p50", "latency_median"))
    assert (p50.value, p50.low, p50.high, p50.n) == (median.value, median.low, median.high, median.n)


def test_what_was_written_is_what_was_computed(study: Study) -> None:
    for path, content in frame_files.contents(study).items():
        files.save(path, content)
    first = {path: path.read_bytes() for path in frame_files.contents(study)}
    again = open_study(study.project.root)
    frames = [one.frame.sort_values(KEY, ignore_index=True) for one in (study, again)]
    assert_frame_equal(*frames, check_dtype=False)
    assert again.row("local", MODEL, "fp16", 8, "speedup") == study.row("local", MODEL, "fp16", 8, "speedup")
    assert {path: content.encode() for path, content in frame_files.contents(again).items()} == first
    assert len(pd.read_csv(study.project.tables / "headline.csv")) == 64
    weights = pd.read_csv(study.project.tables / "cells.csv").groupby("source").weights.first()
    assert weights["local"] == "seeded"
    assert pd.isna(weights["published"])


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "there is none"), ("", "no table"), ("a,b\n1,2\n", "no table of figures"), ('a\n"', "no table")],
)
def test_without_its_files_a_study_says_what_to_run(tmp_path: Path, content: str | None, why: str) -> None:
    project = made.project(tmp_path)
    if content is not None:
        project.tables.mkdir(parents=True)
        (project.tables / "cells.csv").write_text(content)
    opened = open_study(project.root)
    with pytest.raises(StudyError, match=rf"^reports/tables/cells\.csv: {why}.*; run `visionquant analyse`$"):
        opened.row("published", MODEL, "fp32", 1, "latency_median")


def in_turns(times: Sequence[float], alone: Sequence[float], other: str) -> Cell:
    """A cell whose first processes came in the same rounds as ``other``'s, and the last by themselves."""
    cell = made.cell(1, [[ms] * 3 for ms in (*times, *alone)])
    turns = [(other,)] * len(times) + [()] * len(alone)
    replicates = (
        one.model_copy(update={"turns_with": with_}) for one, with_ in zip(cell.replicates, turns, strict=True)
    )
    return cell.model_copy(update={"replicates": tuple(replicates)})


def stopped_apart(tmp_path: Path, base_alone: Sequence[float], alone: Sequence[float]) -> Study:
    """FP16 at 0.9 of FP32's time in shared rounds; one goes on alone; the A/A run of the machine moved by 20 %."""
    project = made.project(tmp_path)
    shared = [100.0, 100.1, 99.9, 100.05]
    cells = {"fp32": in_turns(shared, base_alone, "fp16")}
    cells["fp16"] = in_turns([0.9 * ms for ms in shared], alone, "fp32")
    for precision, cell in cells.items():
        records.write(project.record(MODEL, precision), made.record(MODEL, precision, [cell]))
    for side, factor in (("first", 1.0), ("second", 1.2)):
        found = made.record(MODEL, "fp32", [made.cell(1, [[factor * ms] * 3 for ms in shared])])
        records.write(project.local / "aa" / side / f"{MODEL}-fp32.json", found)
    return gather(project, params.load(project))


@pytest.mark.parametrize(("base_alone", "alone"), [((), (108.0,) * 6), ((83.0,) * 5, ()), ((), ())])
def test_pairs_that_stop_at_different_counts_are_compared_over_their_common_rounds(
    tmp_path: Path, base_alone: Sequence[float], alone: Sequence[float]
) -> None:
    """Under a goal the pair that needs more processes ends alone: once the A/A run's 20 % then counted against all."""
    study = stopped_apart(tmp_path, base_alone, alone)
    assert study.local.shift > 0.18
    found = study.row("local", MODEL, "fp16", 1, "speedup")
    assert (found.verdict, found.n) == ("FASTER", 4)
    assert found.value == pytest.approx(1 / 0.9)
    assert found.low is not None
    assert found.low > 1.1
    assert "may have moved" not in found.reason
    medians = [study.row("local", MODEL, name, 1, "latency_median").n for name in ("fp32", "fp16")]
    assert medians == [4 + len(base_alone), 4 + len(alone)]


def test_pairs_that_share_one_round_are_charged_with_what_the_machine_moves_by(tmp_path: Path) -> None:
    study = stopped_apart(tmp_path, (), ())
    cell, base = (study.local.records[MODEL, name].cells[0] for name in ("fp16", "fp32"))
    once = cell.model_copy(update={"replicates": (cell.replicates[0],)})
    sides = frame.shared_rounds(base, once, "fp16", 0.18)
    assert (len(sides.base), len(sides.other), sides.drift) == (4, 1, 0.18)


def test_the_fuller_set_stands_behind_the_measured_columns(tmp_path: Path) -> None:
    """One local record beside a whole recorded set: once the index, memory and decision pages lost all figures."""
    project = made.project(tmp_path)
    choice = params.load(project)
    cells = [made.cell(1, [[5.0] * 3] * 3)]
    made.recorded_set(project, "elsewhere", [made.record(model, "fp32", cells) for model in choice.study.models])
    records.write(project.record(MODEL, "fp32"), made.record(MODEL, "fp32", [made.cell(1, [[9.0] * 3] * 3)]))
    found = gather(project, choice)
    assert [one.source for one in found.sets] == ["recorded:elsewhere", "local"]
    assert [one.source for one in found.shown] == ["recorded:elsewhere", "local"]
    assert found.value("local", MODEL, "fp32", 1, "latency_median") == 9.0
    for model in choice.study.models:
        records.write(project.record(model, "fp32"), made.record(model, "fp32", cells))
    assert gather(project, choice).measured.source == "local"


@pytest.mark.parametrize("times", [[[5.0] * 3] * 3, [[5.0]], []])
def test_a_set_of_one_record_without_fp32_has_its_figures_and_says_what_lacks(
    tmp_path: Path, times: list[list[float]]
) -> None:
    project = made.project(tmp_path)
    records.write(project.record(MODEL, "nf4"), made.record(MODEL, "nf4", [made.cell(1, times)] if times else []))
    found = gather(project, params.load(project))
    assert found.value("local", MODEL, "nf4", 1, "latency_median") == (5.0 if times else None)
    speedup = found.row("local", MODEL, "nf4", 1, "speedup")
    lacking = "no FP32 cell to compare with: not measured" if times else "batch size 1 not measured"
    assert (speedup.value, speedup.reason) == (None, lacking)
    assert (found.row("local", MODEL, "nf4", 1, "latency_median").low is None) == (len(times) < 2)


def test_scores_of_other_settings_are_missing_with_the_reason_and_not_todays(tmp_path: Path) -> None:
    """Once an old INT8's top-1 was shown as that of the INT8 that params.yaml has now."""
    project = made.project(tmp_path)
    source = tiny.ROOT / "data/machines/cpu-2-core-amd-epyc-avx2/accuracy/digits-vit.json"
    (project.local / "accuracy").mkdir(parents=True)
    shutil.copy(source, project.local / "accuracy" / "digits-vit.json")
    text = project.params.read_text()
    edited = text.replace("    threshold: 6.0", "    threshold: 5.0", 1)
    assert edited != text
    project.params.write_text(edited)
    found = gather(project, params.load(project)).row("local", "digits-vit", "int8", 1, "top1")
    assert (found.value, found.status) == (None, "stale")
    assert found.reason.endswith("precisions.int8")


def test_without_a_window_there_is_no_throughput_no_change_and_no_verdict(tmp_path: Path) -> None:
    project = made.project(tmp_path)
    for precision, windowed in (("fp32", True), ("fp16", False)):
        cell = made.cell(1, [[5.0] * 3] * 3)
        replicates = (one if windowed else one.model_copy(update={"throughput": None}) for one in cell.replicates)
        record = made.record(MODEL, precision, [cell.model_copy(update={"replicates": tuple(replicates)})])
        records.write(project.record(MODEL, precision), record)
    found = gather(project, params.load(project))
    for name in ("throughput", "throughput_change"):
        row = found.row("local", MODEL, "fp16", 1, name)
        assert (row.value, row.verdict, row.status, row.reason) == (None, "", "not_available", "no timed iteration")
    assert found.row("local", MODEL, "fp16", 1, "speedup").verdict == "SAME"
