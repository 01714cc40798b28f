"""Tables as text: what stands where, how it is rounded, and what a missing figure looks like."""

import re
from pathlib import Path

import made
import pytest

from visionquant.analysis import provenance
from visionquant.analysis.study import Study, gather
from visionquant.records.cell import KERNELS, Cell
from visionquant.records.record import Conversion
from visionquant.report import items, proofs
from visionquant.report.items import missing, number, text
from visionquant.report.pages import (
    conditions_page,
    costs_page,
    index_page,
    latency_page,
    memory_page,
    statistics_page,
    study_page,
)
from visionquant.report.table import Column, Table, banner
from visionquant.settings import params

HUGE = "vit-huge-patch14-2020"
FACTORS = {"fp32": 1.0, "fp16": 0.5, "int8": 2.0, "nf4": 1.01}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return made.study(tmp_path_factory.mktemp("study"), FACTORS)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Study:
    project = made.project(tmp_path_factory.mktemp("empty"))
    return gather(project, params.load(project))


def row(found: Table, *starts: str) -> list[str]:
    for boxes in found.rows:
        texts = [item.text for item in boxes]
        if texts[: len(starts)] == list(starts):
            return texts
    raise AssertionError(f"no row {starts}")


def test_the_latency_table_puts_published_beside_measured(study: Study) -> None:
    found = latency_page.latency(study, study.measured, 1)
    assert len(found.rows) == 16
    assert row(found, "vit-huge-patch14-2020") == [
        "vit-huge-patch14-2020", "101.0", "50.5", "202", "102.0",
        "2.00", "2.50", "0.50", "0.46", "0.99", "25.59", "10.24", "56.14", "56.54",
    ]  # fmt: skip
    assert [(column.group, column.heading) for column in found.columns[5:8]] == [
        ("FP16 speedup", "measured"), ("FP16 speedup", "published"), ("INT8 speedup", "measured"),
    ]  # fmt: skip


def test_larger_batches_have_no_published_columns(study: Study) -> None:
    found = latency_page.latency(study, study.measured, 8)
    assert not any("published" in column.group + column.heading for column in found.columns)
    assert "prints batch size 1 only" in found.caption


def test_rows_that_the_supplement_leaves_out_are_there(study: Study) -> None:
    memory = row(memory_page.memory(study, study.measured), "deit-tiny-ultra-efficient")
    assert memory[1:13:3] == [items.DASH] * 4
    assert all(re.fullmatch(r"\d+\.\d\d", text) for text in (*memory[2:13:3], *memory[3:13:3]))
    throughput = row(latency_page.throughput(study, study.measured, 1), "dino-vits16-production")
    assert throughput[-4:] == [items.DASH] * 4
    assert throughput[1] == "9.91"


def test_every_cell_of_an_unmeasured_study_is_missing_and_says_why(empty: Study) -> None:
    found = latency_page.latency(empty, empty.measured, 1)
    measured = [item for items in found.rows for item in items if item.css == "missing"]
    assert len(measured) == 16 * 7
    assert {item.status for item in measured} == {"not_measured"}
    assert found.legend == ("— n/m: not measured, 112 times",)
    assert "—" in found.plain


def test_golden_text_of_a_small_table() -> None:
    found = Table(
        "small",
        "Small",
        "A caption.",
        (Column("Model", css="text"), Column("FP32", group="ms"), Column("FP16", group="ms")),
        (
            (text("a"), number(1.005, 2), missing("over_budget", "7 passes of 2 s")),
            (text("b|c"), number(-0.0001, 2), number(None, 2)),
        ),
    )
    assert found.plain == (
        "Small\n"
        "Model  ms FP32  ms FP16\n"
        "a         1.00   — time\n"
        "b|c       0.00    — n/a\n"
        "— n/a: not available, once\n"
        "— time: over the time budget, once (7 passes of 2 s)\n"
    )
    assert found.markdown.splitlines()[2:6] == [
        "| Model | ms FP32 | ms FP16 |",
        "|---|---:|---:|",
        "| a | 1.00 | — time |",
        "| b\\|c | 0.00 | — n/a |",
    ]
    html = found.html
    assert '<td class="missing" title="7 passes of 2 s">— <small>time</small></td>' in html
    assert 'data-sort="1.005"' in html


def test_rows_without_a_figure_are_a_line_and_details_unfold() -> None:
    shown = (Column("Model", css="text"), Column("ms"), Column("x"), Column("why", css=items.FOLDED))
    gone = missing("busy", "others at work")
    rows = (
        (text("a"), number(1.0, 1), gone, text("by hand")),
        (text("b"), gone, gone, text("others at work")),
        (text("c"), gone, gone, text("")),
        (text("e"), missing("not_measured", "run `probe e`"), gone, text("")),
        (text("d"), gone, gone, text("a remark of its own")),
        *(
            (text(name), missing("over_budget", f"{name} takes {s} s"), gone, text(""))
            for name, s in (("f", 1), ("g", 2))
        ),
    )
    found = Table("t", "T", "", shown, rows)
    both = "— n/m: run `probe MODEL`; — busy: others at work: e"
    long = "— time: e.g. MODEL takes 1 s; — busy: others at work: f, g"
    assert found.absent == ("— busy: others at work: b, c", both, long)
    assert [boxes[0].text for boxes in found.page.rows] == ["a", "d"]
    assert found.page.rows[0][0].more == ("why: by hand",)
    assert '<td class="text" colspan="3">— busy: others at work: b, c</td>' in found.html
    assert "a remark of its own" in found.html
    assert "by hand" in found.plain
    assert Table("t", "T", "", shown, rows[1:3]).absent == ("— busy: others at work: all 2 rows",)


@pytest.mark.parametrize(
    ("low", "high", "decimals"),
    [(1.0, 1.004, 2), (0.9, 1.2, 2), (0.5, 1.5, 1), (90.0, 130.0, 0), (1.0, 1.0, 2), (None, None, 2)],
)
def test_an_estimate_has_no_digit_that_its_interval_does_not_support(
    low: float | None, high: float | None, decimals: int
) -> None:
    assert items.supported(2, low, high) == decimals


def test_a_row_that_does_not_fit_its_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 under 2 columns"):
        Table("t", "T", "", (Column("a"), Column("b")), ((text("x"),),))


def test_the_statistics_block_recomputes_and_judges_each_printed_figure(study: Study) -> None:
    found = statistics_page.over_models(study, study.measured)
    assert len(found.rows) == 16
    assert row(found, "FP16 speedup", "standard deviation")[2:6] == ["0.56", "0.535", "16 of 16", "no"]
    assert row(found, "FP16 speedup", "median")[2:7] == ["1.01", "1.010", "16 of 16", "yes", "2.00"]
    assert row(found, "INT8 memory reduction", "mean")[4:6] == ["10 of 16", "not from these rows alone"]


def test_group_claims_are_computed_under_every_reading(study: Study) -> None:
    found = statistics_page.groups(study, study.measured)
    readings = [row_ for row_ in found.rows if row_[0].text == "foundation" and "speedup" in row_[1].text]
    assert [item[2].text.split(",")[0] for item in readings] == ["as listed", "by its rule", "by its rule"]
    assert [item[4].text for item in readings] == ["1.56", "1.67", "1.74"]
    assert {item[5].text for item in readings} == {"no"}


def test_costs_show_what_their_own_numbers_imply(study: Study) -> None:
    assert row(costs_page.published_instances(study), "p4d.24xlarge")[5:] == ["yes", "1.50", "9,600", "13.15"]
    assert row(costs_page.ownership(study), "ROI over 3 years")[1:3] == ["1,000 %", "2,900 %"]


def test_findings_are_made_of_the_records(study: Study, empty: Study) -> None:
    found = {one.question: one.answer for one in index_page.findings(study)}
    assert "2.00 times FP32's speed in the median of 16 models" in found["Is FP16 faster than FP32?"]
    assert "(2.00 to 2.00); FASTER for 16." in found["Is FP16 faster than FP32?"]
    assert "(0.50 to 0.50); SLOWER for 16." in found["Is INT8 faster than FP32?"]
    assert "(0.99 to 0.99); SAME for 16." in found["Is NF4 faster than FP32?"]
    assert "7 of 10 figures equal the INT8 column" in found["Was the published INT4 column measured in 4 bits?"]
    assert "4 of 10 printed FP32 figures to the last digit" in found["What did the supplement measure as memory?"]
    assert "22 of 24 figures are 1000 divided by" in found["Was the published throughput measured?"]
    assert found["Was the published throughput measured?"].endswith("the others within 0.06 %.")
    assert index_page.unanswered(empty) == ("Everything that needs a measurement: run `make repro`.",)
    assert all("Not measured" in one.answer for one in index_page.findings(empty) if one.question.startswith("Is "))
    assert any("seeded" in one for one in index_page.unanswered(study))


def test_conditions_name_the_published_and_the_measured_machine(study: Study) -> None:
    found = study_page.conditions(study, study.measured)
    assert row(found, "Device")[1:] == ["NVIDIA RTX 4070 Ti SUPER (16GB VRAM)", "Made-up CPU CPU"]
    assert row(found, "CPU threads")[2] == "2"
    assert row(found, "Experiments")[1:] == ["64", "64"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """One cell was busy, one precision is unsupported, and another machine was recorded before rounds."""
    found = made.study(tmp_path_factory.mktemp("mixed"), FACTORS)
    disturbed = made.cell(1, made.times(200.0), made.times(100.0), others=0.5)
    lacks = Cell(batch_size=1, status="unsupported", reason="no BF16 instructions")
    for precision, cell in (("int8", disturbed), ("bf16", lacks)):
        made.write(found.project.record(HUGE, precision), made.record(HUGE, precision, [cell]))
    old = [made.record(HUGE, name, [made.cell(1, made.times(ms))]) for name, ms in (("fp32", 100.0), ("int8", 50.0))]
    made.recorded_set(found.project, "old-box", old)
    return gather(found.project, found.params)


def test_a_busy_cell_is_a_row_with_its_reason_and_in_no_headline(mixed: Study) -> None:
    shown = row(latency_page.speedups(mixed, mixed.measured, 1), HUGE, "INT8")
    assert (shown[2], *shown[6:]) == (items.DASH, "0 of 3", "others were busy in 3 of 3 rounds")
    found = latency_page.latency(mixed, mixed.measured, 1)
    assert {item.status for item in found.rows[0]} >= {"busy"}
    assert any("others were busy in 3 of 3 rounds" in line for line in found.legend)
    answers = {one.question: one.answer for one in index_page.findings(mixed)}
    assert "in the median of 15 models" in answers["Is INT8 faster than FP32?"]
    assert "of which other programs disturbed 1" in answers["Can these measurements be trusted?"]
    conditions = conditions_page.machine_conditions(mixed, mixed.measured)
    assert row(conditions, "Busy cells")[1] == "1"
    assert row(conditions, "Busy slots")[1].startswith("3 of ")


def test_where_every_cell_was_busy_the_first_line_says_so_and_offers_a_thread_less(tmp_path: Path) -> None:
    found = made.project(tmp_path)
    for precision in ("fp32", "int8"):
        cell = made.cell(1, made.times(200.0), made.times(100.0), others=0.5)
        made.write(found.record(HUGE, precision), made.record(HUGE, precision, [cell]))
    study = gather(found, params.load(found))
    first, *_ = provenance.warnings(study)
    assert first.startswith("Other programs were at work in all 2 cells")
    assert first.endswith("`--set protocols.quick.threads=1`.")
    text = banner(study).html
    assert text.index("Other programs were at work") < text.index("seeded weights")


def test_a_precision_beside_the_supplements_is_shown_where_it_was_measured_or_why_not(mixed: Study) -> None:
    found = latency_page.latency(mixed, mixed.measured, 1)
    (place,) = (
        i for i, column in enumerate(found.columns) if column.group == "measured, ms" and "BF" in column.heading
    )
    assert (found.rows[0][place].status, found.rows[0][place].note) == ("unsupported", "no BF16 instructions")
    assert {boxes[place].status for boxes in found.rows[1:]} == {"not_measured"}


def test_records_before_rounds_are_marked_wherever_they_stand(mixed: Study) -> None:
    (old,) = (one for one in mixed.sets if one.name == "old-box")
    found = latency_page.speedups(mixed, old, 1)
    shown = next(boxes for boxes in found.rows if boxes[0].text == HUGE and boxes[1].text == "INT8")
    assert [item.text for item in shown[2:]] == ["2.00", *[items.DASH] * 4, "before rounds"]
    assert (shown[2].bounds, shown[2].word) == ("", "")
    for table in (found, latency_page.latency(mixed, old, 1), latency_page.throughput(mixed, old, 1)):
        assert "Before rounds: " in table.caption
    assert "; before rounds." in memory_page.model_size(mixed, old).source
    assert "; before rounds." not in memory_page.model_size(mixed, mixed.measured).source
    assert row(study_page.conditions(mixed, old), "Rounds a cell")[2] == "3"


def test_what_the_kernels_did_is_told_over_rounds(tmp_path: Path) -> None:
    found = made.project(tmp_path)
    times = [[2.0] * 4, [2.2] * 4, [1.8] * 4]
    cell = made.cell(1, times, times, blocks=2, kernels_ms=1.0)
    second = cell.rounds[1]
    slower = [slot.model_copy(update={"wall_ms": (1.5,)}) if slot.arm in KERNELS else slot for slot in second.slots]
    rounds = (cell.rounds[0], second.model_copy(update={"slots": tuple(slower)}), cell.rounds[2])
    made.write(found.record(HUGE, "fp32"), made.record(HUGE, "fp32", [cell.model_copy(update={"rounds": rounds})]))
    study = gather(found, params.load(found))
    shown = conditions_page.kernels(study, study.measured)
    assert [boxes[0].text for boxes in shown.rows] == ["compute", "stream", "int8"]
    assert [item.flat for item in shown.rows[0][1:]] == ["3", "1.000 (1.000 to 1.500)", "23.4"]


def test_kernels_and_messages_are_shown_and_what_was_not_recorded_says_so(tmp_path: Path) -> None:
    found = made.study(tmp_path / "one", FACTORS)
    old = conditions_page.library_kernels(found, found.measured)
    assert [(row[0].text, row[1].text, row[2].text) for row in old.rows] == [
        ("INT8", "not recorded", "16"),
        ("NF4", "not recorded", "16"),
    ]
    assert [row[0].text for row in conditions_page.library_messages(found, found.measured).rows] == ["not recorded"]

    (model, *_), slow = found.models, "bitsandbytes: falling back to a slower implementation"
    kernels = {"int8": {"INT8, an INT8 product (cigemmlt_32)": 72}, "nf4": {"NF4, fused": 70, "not run": 2}}
    for name, one in {pair: one for pair, one in found.measured.records.items() if pair[0] == model}.items():
        said = {"kernels": kernels.get(name[1], {}), "messages": {slow: 24} if name[1] == "nf4" else {}}
        assert one.conversion is not None
        new = one.model_copy(update={"conversion": one.conversion.model_copy(update=said)})
        made.write(found.project.record(*name), new)
    found = gather(found.project, found.params)
    shown = [tuple(item.text for item in row) for row in conditions_page.library_kernels(found, found.measured).rows]
    assert ("INT8", "INT8, an INT8 product (cigemmlt_32)", "1", "72") in shown
    assert ("NF4", "NF4, fused", "1", "70") in shown
    assert ("NF4", "not run", "1", "2") in shown
    said = [tuple(item.text for item in row) for row in conditions_page.library_messages(found, found.measured).rows]
    assert (slow, "24", "1", "NF4") in said
    assert ("nothing", "—", "3", "FP32, FP16, INT8") in said
    assert any(row[0] == "not recorded" and row[2] == "60" for row in said)


def test_a_proof_says_how_many_layers_ran_codes_and_when_an_export_pays_off() -> None:
    proven = Conversion(quantized_modules=72, quantized_share=0.9, skipped_modules=(), dtypes={}, knobs={})
    ran = {"NF4, fused (cgemm_4bit)": 70, "NF4, dequantised, then a product in floats (torch.linear)": 2}
    assert proofs.fused(proven.model_copy(update={"kernels": ran})) == "70 of 72"
    assert proofs.fused(proven.model_copy(update={"kernels": {"MatMulIntegerToFloat": 73}})) == "72 of 72"
    assert proofs.fused(proven) == "not recorded"
    assert proofs.fused(proven.model_copy(update={"quantized_modules": 0})) == "none quantised"
    seconds = {"export_s": 2.5, "compile_s": 0.51}
    assert proofs.pay_off(seconds, 100.0, 70.0).text == "101"
    assert proofs.pay_off(seconds, 70.0, 100.0).note == "never: it is not faster than FP32"
    assert proofs.pay_off(seconds, None, 100.0).note == "not timed beside FP32"
    assert "nothing was exported" in proofs.pay_off({}, 100.0, 70.0).note


def test_another_sets_tables_stand_beside_the_measured_ones(tmp_path: Path) -> None:
    here = made.study(tmp_path, FACTORS)
    record = made.record("vit-huge-patch14-2020", "fp32", [made.cell(1, made.times(5.0), gpu=True)], made.CARD)
    made.recorded_set(here.project, "a-card", [record])
    both = gather(here.project, here.params)
    local, other = (latency_page.latency(both, one, 1) for one in both.shown)
    assert (local.id, local.label) == ("latency-1", "Batch size 1")
    assert (other.id, other.label) == ("latency-1-recorded-a-card", "Batch size 1, recorded (a-card)")
    assert row(other, "vit-huge-patch14-2020")[1] == "5.05"


@pytest.mark.parametrize(
    ("name", "label"), [("fp32", "FP32"), ("nf4", "NF4"), ("bf16", "BF16"), ("mine", "mine"), ("int8-outliers",) * 2]
)
def test_the_name_of_a_number_format_is_in_capitals_and_a_users_own_is_not(name: str, label: str) -> None:
    assert items.precision_label(name) == label


def test_what_a_box_says_does_not_become_markup() -> None:
    found = Table("t", "<b>", "`a` & <i>", (Column('"x"'),), ((items.Item("<a>", note='"', more=("`b`<",)),),)).html
    assert "<figcaption><strong>&lt;b&gt;.</strong> <code>a</code> &amp; &lt;i&gt;</figcaption>" in found
    assert "<summary>&lt;a&gt;</summary><ul><li><code>b</code>&lt;</li></ul>" in found
    assert 'title="&quot;"' in found
    assert "&quot;x&quot;</th>" in found
