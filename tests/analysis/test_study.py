"""From records to figures and their absences: local, recorded, stale, mixed, missing."""

from dataclasses import replace
from pathlib import Path

import made
import pytest

from visionquant.analysis import provenance
from visionquant.analysis.study import MachineSet, Study, gather
from visionquant.core.errors import StudyError
from visionquant.records.cell import Cell
from visionquant.records.record import Record
from visionquant.report.pages import memory_page, study_page
from visionquant.settings import params as parameters

FACTORS = {"fp32": 1.0, "fp16": 0.5, "int8": 2.0, "nf4": 1.01}
MODEL = "vit-base-224-production"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return made.study(tmp_path_factory.mktemp("study"), FACTORS)


@pytest.fixture(scope="module")
def on_the_card(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return made.study(tmp_path_factory.mktemp("card"), FACTORS, made.CARD)


@pytest.mark.parametrize("precision", FACTORS)
@pytest.mark.parametrize("size", [1, 32])
def test_a_speedup_is_fp32s_median_over_the_precisions(study: Study, precision: str, size: int) -> None:
    found = study.row(study.measured.source, MODEL, precision, size, "speedup")
    assert found.value == pytest.approx(1 / FACTORS[precision])
    assert found.n == len(made.STEADY)
    latency = study.row(study.measured.source, MODEL, precision, size, "latency_median")
    assert latency.value == pytest.approx(100 * FACTORS[precision] * size, rel=0.02)
    assert latency.low is not None
    assert latency.high is not None
    assert latency.low < latency.value < latency.high


def test_throughput_is_images_over_the_seconds_of_each_round(study: Study) -> None:
    found = study.row(study.measured.source, MODEL, "fp16", 8, "throughput")
    cell = study.measured.records[MODEL, "fp16"].cell(8)
    assert cell is not None
    rates = [8e3 * len(times) / sum(times) for times in cell.times_ms("fp16")]
    assert len(rates) == 3
    assert found.value == pytest.approx(sorted(rates)[1])
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    change = study.row(study.measured.source, MODEL, "fp16", 8, "throughput_change")
    assert change.value == pytest.approx(100.0)
    assert change.low is not None
    assert change.low < 100.0


def test_memory_on_a_cpu_is_stored_bytes_and_device_figures_are_absent_with_a_reason(study: Study) -> None:
    found = study.row(study.measured.source, MODEL, "fp16", 1, "memory_allocated_after")
    assert found.value is None
    assert found.reason == "a CUDA figure, there is none on a CPU"
    stored = study.row(study.measured.source, MODEL, "int8", 1, "memory_with_workspace")
    counted = study.value("arithmetic", MODEL, "int8", 0, "memory_with_workspace")
    assert stored.value == pytest.approx(counted)
    assert study.counterpart(study.measured, "memory_published") == "memory_with_workspace"


def test_memory_on_a_gpu_is_what_was_allocated(on_the_card: Study) -> None:
    found = on_the_card.row(on_the_card.measured.source, MODEL, "fp16", 8, "memory_allocated_after")
    assert found.value == 8.0
    assert on_the_card.row(on_the_card.measured.source, MODEL, "fp16", 1, "gpu_median").value == pytest.approx(
        25.0, rel=0.02
    )
    assert on_the_card.counterpart(on_the_card.measured, "memory_published") == "memory_allocated_after"


@pytest.mark.parametrize(
    ("mib", "quantities"),
    [
        (8.125, ("memory_allocated_after", "memory_reduction")),
        (32.0, ("memory_with_workspace", "memory_reduction_workspace")),
    ],
)
def test_memory_stands_beside_the_published_where_the_workspace_is_the_same(
    on_the_card: Study, mib: float, quantities: tuple[str, str]
) -> None:
    """Hopper and later keep 32 MiB: as allocated, a small network would save a third of what it saves."""

    def with_workspace(record: Record) -> Record:
        cells = (
            one.model_copy(
                update={"memory": one.memory and one.memory.model_copy(update={"workspace": int(mib * 2**20)})}
            )
            for one in record.cells
        )
        return record.model_copy(update={"cells": tuple(cells)})

    measured = on_the_card.measured
    records = {pair: with_workspace(record) for pair, record in measured.records.items()}
    found = replace(measured, records=records)
    for quantity, name in zip(("memory_published", "memory_reduction"), quantities, strict=True):
        assert on_the_card.counterpart(found, quantity) == name
    caption = memory_page.memory(on_the_card, found).caption
    assert ("for that of this card is 32 MiB" in caption) is (mib == 32)


def test_only_the_published_card_is_comparable(study: Study, on_the_card: Study) -> None:
    assert on_the_card.comparable(on_the_card.measured) == ""
    assert "these from a CPU (Made-up CPU)" in study.comparable(study.measured)


def test_arithmetic_gives_the_published_memory_of_the_large_models(study: Study) -> None:
    for model in ("vit-huge-patch14-2020", "vit-large-patch16-2020", "dinov2-large-2023", "beit-large-2021"):
        printed = study.published.cells["memory_published", model, "fp32"]
        counted = study.value("arithmetic", model, "fp32", 0, "memory_with_workspace")
        assert counted == pytest.approx(printed.value, abs=0.0051)


def test_a_missing_cell_keeps_its_status_and_reason(tmp_path: Path) -> None:
    project = made.project(tmp_path)
    params = parameters.load(project)
    ran_out = Cell(batch_size=8, status="out_of_memory", reason="foreseen: about 9 GiB")
    cells = [made.cell(1, [[100.0] * 3] * 3), ran_out]
    made.write(project.record(MODEL, "fp32"), made.record(MODEL, "fp32", cells))
    made.write(project.record(MODEL, "fp16"), made.record(MODEL, "fp16", [made.cell(8, [[50.0] * 3] * 3)]))
    found = gather(project, params)
    local = found.measured
    assert local.state(MODEL, "fp32", 8).reason == "foreseen: about 9 GiB"
    assert local.state(MODEL, "fp32", 4).status == "not_measured"
    assert local.state(MODEL, "nf4", 1).status == "not_measured"
    speedup = found.row(local.source, MODEL, "fp16", 8, "speedup")
    assert speedup.value is None
    assert speedup.reason == "no FP32 cell to compare with: foreseen: about 9 GiB"
    counts = provenance.counts(found, local)
    assert counts == {"ok": 2, "not_measured": 317, "out_of_memory": 1}


def test_a_pair_that_failed_is_missing_with_its_reason_in_every_table(tmp_path: Path) -> None:
    project = made.project(tmp_path)
    reason = "KeyError: 'surprise'; traceback in data/machines/local/failures/vit-base-224-production-nf4.log"
    record = made.record(MODEL, "nf4", [Cell(batch_size=1, status="failed", reason=reason)])
    lacking = record.model_copy(update={"fidelity": None, "fidelity_reason": "FP32: out of memory"})
    made.write(project.record(MODEL, "nf4"), lacking)
    made.write(project.record(MODEL, "fp32"), made.record(MODEL, "fp32", [made.cell(1, [[1.0] * 3] * 3)]))
    found = gather(project, parameters.load(project))
    speedup = found.row(found.local.source, MODEL, "nf4", 1, "speedup")
    assert (speedup.value, speedup.status, speedup.reason) == (None, "failed", reason)
    assert found.row(found.local.source, MODEL, "nf4", 1, "cosine").reason == "FP32: out of memory"
    assert provenance.counts(found, found.local)["failed"] == 1
    counted = [[item.text for item in row] for row in study_page.absences(found, found.local).rows]
    meaning = "failed unexpectedly; the next run tries it again"
    assert [meaning, "1", f"{MODEL} nf4, batch size 1: {reason}"] in counted
    shown = study_page.cell_statuses(found, found.local)
    assert any(line.startswith(f"— fail: {meaning}, once") for line in shown.legend)


def test_a_record_of_other_settings_is_stale_and_left_out(tmp_path: Path) -> None:
    project = made.project(tmp_path)
    made.write(project.record(MODEL, "nf4"), made.record(MODEL, "nf4", [made.cell(1, [[1.0]])]))
    text = project.params.read_text()
    project.params.write_text(text.replace("    blocksize: 64", "    blocksize: 128"))
    found = gather(project, parameters.load(project))
    state = found.measured.state(MODEL, "nf4", 1)
    assert (state.status, state.reason) == ("stale", "recorded under other settings: precisions.nf4")
    assert "params.yaml has changed since: 1." in " ".join(provenance.warnings(found))


def test_stale_records_are_spoken_of_where_a_recorded_set_stands_in(tmp_path: Path) -> None:
    project = made.project(tmp_path)
    cells = [made.cell(1, [[1.0]])]
    made.write(project.record(MODEL, "nf4"), made.record(MODEL, "nf4", cells))
    made.recorded_set(project, "elsewhere", [made.record(MODEL, "nf4", cells)])
    project.params.write_text(project.params.read_text().replace("    blocksize: 64", "    blocksize: 128"))
    found = gather(project, parameters.load(project))
    said = " ".join(provenance.warnings(found))
    assert found.measured.source == "recorded:elsewhere"
    assert "params.yaml has changed since: 1." in said
    assert "Recorded (elsewhere): recorded under other settings: precisions.nf4." in said


def test_the_share_of_time_in_passes_counts_a_round_of_a_model_once(study: Study) -> None:
    pairs = {pair: record for pair, record in study.measured.records.items() if pair[0] == MODEL}
    one = MachineSet("local", pairs)
    rounds = 3 * len(study.batch_sizes)
    assert provenance.timed_share(one) == pytest.approx(1.5 * rounds / (2.0 * rounds + 10.0 * len(pairs)))
    before = made.record(MODEL, "fp32", [made.cell(1, [[500.0] * 4] * 3)])
    cells = (before.cells[0].model_copy(update={"rounds": tuple(
        each.model_copy(update={"spent_s": 0.0, "passes_s": 0.0}) for each in before.cells[0].rounds
    )}),)  # fmt: skip
    alone = MachineSet("local", {before.pair: before.model_copy(update={"cells": cells})})
    assert provenance.timed_share(alone) == pytest.approx(6.0 / 10.0)
    assert provenance.timed_share(MachineSet("local", {})) is None


def test_recorded_sets_stand_in_where_nothing_is_measured_here_and_beside_it_else(tmp_path: Path) -> None:
    project = made.project(tmp_path)
    params = parameters.load(project)
    cells = [made.cell(1, [[5.0] * 3] * 3, gpu=True)]
    made.recorded_set(project, "a-card", [made.record(MODEL, "fp32", cells, made.CARD)])
    found = gather(project, params)
    assert [one.source for one in found.sets] == ["recorded:a-card", "local"]
    assert found.measured.label == "recorded (a-card)"
    made.write(project.record(MODEL, "fp32"), made.record(MODEL, "fp32", [made.cell(1, [[9.0] * 3] * 3)]))
    found = gather(project, params)
    assert [one.source for one in found.sets] == ["local", "recorded:a-card"]
    assert found.row(found.sets[1].source, MODEL, "fp32", 1, "latency_median").value == 5.0


def test_cells_of_other_thread_counts_have_no_verdict_and_say_why(tmp_path: Path) -> None:
    """FP32 with OMP_NUM_THREADS=1, a copy of its row with 2: the same thing was once FASTER, 1.83x, p 0.016."""
    project = made.project(tmp_path)
    params = parameters.load(project)
    rows = {"fp32": (made.cell(1, [[183.0] * 5, [183.1] * 5, [182.9] * 5]), 1)}
    rows["fp16"] = (made.cell(1, [[100.0] * 5, [100.1] * 5, [99.9] * 5]), 2)
    old = made.CPU.model_copy(update={"variables": None})  # as where the record does not say it
    for precision, (cell, threads) in rows.items():
        rounds = tuple(each.model_copy(update={"threads": threads}) for each in cell.rounds)
        one = made.record(MODEL, precision, [cell.model_copy(update={"rounds": rounds})], old)
        made.write(project.record(MODEL, precision), one)
    study = gather(project, params)
    assert {study.row("local", MODEL, name, 1, "speedup").verdict for name in rows} == {""}
    found = study.row(study.measured.source, MODEL, "fp16", 1, "speedup")
    assert (found.value, found.status) == (None, "not_available")
    assert found.reason == "CPU threads: 2 here, 1 in FP32's cell; measure both alike"
    assert study.row(study.measured.source, MODEL, "fp32", 1, "latency_median").value == 183.0


@pytest.mark.parametrize("place", ["data/machines/local/latency", "data/machines/mixed"])
def test_a_set_that_mixes_machines_is_refused(tmp_path: Path, place: str) -> None:
    project = made.project(tmp_path)
    machines = {"fp32": made.CPU, "fp16": made.CPU.model_copy(update={"torch": "2.11.0"})}
    mixed = [made.record(MODEL, name, [made.cell(1, [[1.0]])], machine) for name, machine in machines.items()]
    if "mixed" in place:
        made.recorded_set(project, "mixed", mixed)
    else:
        for one in mixed:
            made.write(project.record(one.model, one.precision), one)
    with pytest.raises(StudyError, match=rf"{place}: {MODEL}-fp\d+ comes from another machine: torch .*2\.11\.0"):
        gather(project, parameters.load(project))
