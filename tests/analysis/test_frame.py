"""The frame: every cell once, as files and back; ratios from their own blocks alone."""

import json
import shutil
from pathlib import Path

import jsonschema
import made
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from visionquant.analysis import frame, frame_files
from visionquant.analysis.study import Study, gather, open_study
from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.quantities import quantity
from visionquant.records.record import Record
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
    words = [study.pivot("local", "speedup", [name], 8)[name].map(lambda box: box.verdict) for name in ("fp16", "int8")]
    assert [set(one) for one in words] == [{"FASTER"}, {"SLOWER"}]


def test_a_precision_in_two_tables_has_a_verdict_in_each(study: Study) -> None:
    bracket = study.row("local", MODEL, "int8", 1, "speedup_in_bracket")
    assert bracket.value == study.value("local", MODEL, "int8", 1, "speedup")
    assert "after Holm over 16 contrasts" in bracket.reason


def test_quantities_of_a_model_are_found_at_every_batch_size(study: Study) -> None:
    assert study.value("local", MODEL, "int8", 8, "cosine") == study.value("local", MODEL, "int8", 0, "cosine") == 0.99
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


def test_results_hold_every_figure_and_every_absence_in_the_form_that_the_schema_says(study: Study) -> None:
    results = json.loads(frame_files.contents(study)[study.project.reports / "results.json"])
    schema = json.loads((made.ROOT / "data" / "schemas" / "results.schema.json").read_text())
    checker = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in checker.iter_errors(results)] == []
    found = pd.concat(
        pd.DataFrame(one["figures"]["rows"], columns=one["figures"]["columns"])
        .assign(source=source)
        .astype(dict.fromkeys(("value", "low", "high"), float))  # null is a column of objects
        for source, one in results["sources"].items()
    )
    columns = [*KEY, "value", "low", "high", "verdict", "reason"]
    expected = study.cells[columns].sort_values(KEY, ignore_index=True)
    assert_frame_equal(found[columns].sort_values(KEY, ignore_index=True), expected, check_dtype=False)
    absent = [row for one in results["sources"].values() for row in one["missing"]["rows"]]
    assert sum(len(quantities) * len(sizes) for _, _, quantities, sizes, _, _ in absent) == len(study.missing)
    assert results["sources"]["local"]["weights"] == "seeded"
    results["sources"]["local"]["figures"]["rows"][0][4] = None
    assert not checker.is_valid(results)


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


def opened(root: Path, *found: Record) -> Study:
    """A study of these records."""
    project = made.project(root)
    for one in found:
        made.write(project.record(one.model, one.precision), one)
    return gather(project, params.load(project))


def test_a_ratio_crosses_no_two_runs(tmp_path: Path) -> None:
    """A precision that was measured anew is set against the FP32 of its own blocks, though FP32's record is slower."""
    fp32 = made.record(MODEL, "fp32", [made.cell(1, made.times(130.0), made.times(130.0))])
    fp16 = made.record(MODEL, "fp16", [made.cell(1, made.times(50.0), made.times(100.0))])
    for number, records in enumerate(([fp32, fp16], [fp16])):
        found = opened(tmp_path / str(number), *records).row("local", MODEL, "fp16", 1, "speedup")
        assert (found.value, found.n, found.verdict) == (pytest.approx(2.0), 3, "FASTER")


def test_times_that_others_disturbed_are_in_no_figure(tmp_path: Path) -> None:
    quiet, busy = (made.cell(1, made.times(ms), made.times(100.0), others=others) for ms, others in
                   ((50.0, 0.0), (5000.0, 0.9)))  # fmt: skip
    some = quiet.model_copy(update={"rounds": (*quiet.rounds[:2], busy.rounds[2])})
    study = opened(tmp_path, made.record(MODEL, "fp16", [some]), made.record(MODEL, "nf4", [busy]))
    speedup, median = (study.row("local", MODEL, "fp16", 1, name) for name in ("speedup", "latency_median"))
    assert (speedup.value, speedup.n) == (pytest.approx(2.0), 2)
    assert (median.n, (median.value or 0) < 52) == (2, True)
    found = study.row("local", MODEL, "nf4", 1, "latency_median")
    assert (found.value, found.status, found.reason) == (None, "busy", "others were busy in 3 of 3 rounds")


def test_cells_before_rounds_keep_their_medians_and_lose_their_verdicts(tmp_path: Path) -> None:
    sides = [made.record(MODEL, name, [made.cell(1, made.times(ms))]) for name, ms in (("fp32", 100.0), ("int8", 50.0))]
    study = opened(tmp_path, *sides)
    for name in ("speedup", "speedup_in_bracket", "throughput_change"):
        found = study.row("local", MODEL, "int8", 1, name)
        assert found.value == pytest.approx(100.0 if name == "throughput_change" else 2.0)
        assert (found.low, found.verdict, found.reason) == (None, "", "before rounds: no interval, no verdict")
    median = study.row("local", MODEL, "int8", 1, "latency_median")
    assert median.low is not None
    assert study.row("local", MODEL, "int8", 1, "placebo").reason == "before rounds"


def test_a_round_of_one_block_has_a_ratio_without_an_interval(tmp_path: Path) -> None:
    study = opened(tmp_path, made.record(MODEL, "fp16", [made.cell(1, [[5.0]], [[10.0]])]))
    found = study.row("local", MODEL, "fp16", 1, "speedup")
    assert (found.value, found.low, found.verdict) == (pytest.approx(2.0), None, "UNDECIDED")
    assert found.reason == "one round of one block: no interval"
    assert study.row("local", MODEL, "fp16", 1, "speedup_pooled").reason == "fewer than two models have two rounds"


def test_on_a_gpu_windows_tell_of_throughput(tmp_path: Path) -> None:
    """The first pass of a slot, which its window is as fast as, takes a fifth of FP32's; the median pass a half."""
    own = [[20.0, 50.0, 50.0]] * 3
    record = made.record(MODEL, "fp16", [made.cell(8, own, [[100.0] * 3] * 3, gpu=True)], made.CARD)
    study = opened(tmp_path, record)
    speedup, change, rate, gpu = (
        study.value("local", MODEL, "fp16", 8, name)
        for name in ("speedup", "throughput_change", "throughput", "gpu_median")
    )
    assert (speedup, change) == (pytest.approx(2.0), pytest.approx(400.0))
    assert (rate, gpu) == (pytest.approx(8e3 / 20), pytest.approx(25.0))


def test_the_fuller_set_stands_behind_the_measured_columns(tmp_path: Path) -> None:
    """One local record beside a whole recorded set: once the index, memory and decision pages lost all figures."""
    project = made.project(tmp_path)
    choice = params.load(project)
    cells = [made.cell(1, [[5.0] * 3] * 3)]
    made.recorded_set(project, "elsewhere", [made.record(model, "fp32", cells) for model in choice.study.models])
    made.write(project.record(MODEL, "fp32"), made.record(MODEL, "fp32", [made.cell(1, [[9.0] * 3] * 3)]))
    found = gather(project, choice)
    assert [one.source for one in found.sets] == ["recorded:elsewhere", "local"]
    assert [one.source for one in found.shown] == ["recorded:elsewhere", "local"]
    assert found.value("local", MODEL, "fp32", 1, "latency_median") == 9.0
    for model in choice.study.models:
        made.write(project.record(model, "fp32"), made.record(model, "fp32", cells))
    assert gather(project, choice).measured.source == "local"


@pytest.mark.parametrize("times", [[[5.0] * 3] * 3, [[5.0]], []])
def test_a_set_of_one_record_without_fp32_has_its_figures_and_says_what_lacks(
    tmp_path: Path, times: list[list[float]]
) -> None:
    project = made.project(tmp_path)
    made.write(project.record(MODEL, "nf4"), made.record(MODEL, "nf4", [made.cell(1, times)] if times else []))
    found = gather(project, params.load(project))
    assert found.value("local", MODEL, "nf4", 1, "latency_median") == (5.0 if times else None)
    speedup = found.row("local", MODEL, "nf4", 1, "speedup")
    lacking = "no FP32 cell to compare with: not measured" if times else "batch size 1 not measured"
    assert (speedup.value, speedup.reason) == (None, lacking)
    assert (found.row("local", MODEL, "nf4", 1, "latency_median").low is None) == (len(times) < 2)


def test_scores_of_other_settings_are_missing_with_the_reason_and_not_todays(tmp_path: Path) -> None:
    """Once an old INT8's top-1 was shown as that of the INT8 that params.yaml has now."""
    project = made.project(tmp_path)
    source = made.ROOT / "data/machines/cpu-2-core-amd-epyc-avx2/accuracy/digits-vit.json"
    (project.local / "accuracy").mkdir(parents=True)
    shutil.copy(source, project.local / "accuracy" / "digits-vit.json")
    text = project.params.read_text()
    edited = text.replace("    threshold: 6.0", "    threshold: 5.0", 1)
    assert edited != text
    project.params.write_text(edited)
    found = gather(project, params.load(project)).row("local", "digits-vit", "int8", 1, "top1")
    assert (found.value, found.status) == (None, "stale")
    assert found.reason.endswith("precisions.int8")


def test_without_a_window_the_passes_tell_of_throughput(tmp_path: Path) -> None:
    study = opened(tmp_path, made.record(MODEL, "fp16", [made.cell(4, made.times(50.0), made.times(100.0))]))
    rate, times = study.row("local", MODEL, "fp16", 4, "throughput"), made.times(50.0)
    assert rate.value == pytest.approx(4e3 / (sum(times[1]) / 20))
    change, speedup = (study.row("local", MODEL, "fp16", 4, name) for name in ("throughput_change", "speedup"))
    assert (change.value, change.verdict) == (pytest.approx(100.0), speedup.verdict)
