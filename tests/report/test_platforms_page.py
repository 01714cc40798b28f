"""The part about platforms says what can be pooled and what can't, with no machine, one, and several."""

import sys
from pathlib import Path

import made
import pytest

from visionquant import cli
from visionquant.analysis.study import Study, gather
from visionquant.report.pages import platforms_page
from visionquant.settings import params as parameters

MODEL = "deit-tiny-ultra-efficient"


def study(root: Path, *factors: float, turns: bool = True) -> Study:
    """A machine a factor, on which INT8 takes that times FP32."""
    project = made.project(root / "study")
    for number, factor in enumerate(factors):
        sides = {"base": made.times(10.0), "placebo": made.times(10.0, made.WOBBLE)} if turns else {}
        contents = [
            made.record(MODEL, precision, [made.cell(1, made.times(10.0 * by, wobble), blocks=2, **sides)])
            for precision, by, wobble in (("fp32", 1.0, (1.0, 1.0, 1.0)), ("int8", factor, made.WOBBLE[::-1]))
        ]
        made.recorded_set(project, f"box-{number}", contents)
    return gather(project, parameters.load(project))


def test_a_mean_over_machines_stands_in_the_table_and_in_the_figure(tmp_path: Path) -> None:
    found = study(tmp_path, 0.5, 0.52, 0.48)
    table = platforms_page.pooled(found)
    assert table.caption.startswith("1 of 1 speedups have two machines of a kind with an interval")
    assert [item.text for item in table.rows[0]][:6] == ["CPU with AVX2", MODEL, "INT8", "seeded", "3", "0"]
    assert table.rows[0][6].word == "FASTER"
    assert "all: CPU with AVX2" in platforms_page.forest(found).svg
    machines = platforms_page.machines(found)
    assert [row[0].text for row in machines.rows] == ["box-0", "box-1", "box-2"]
    assert machines.rows[0][8].text == "passed"
    assert machines.rows[0][10].text == "1 of 1 speedups"


def test_medians_from_before_rounds_are_named_and_not_pooled(tmp_path: Path) -> None:
    found = study(tmp_path, 0.5, 2.0, turns=False)
    table = platforms_page.pooled(found)
    assert table.caption.startswith("0 of 1 speedups have two machines of a kind with an interval.")
    assert "medians without intervals, in no pool: box-0, box-1" in table.caption
    assert table.rows == ()
    assert "Machines with intervals: none." in table.caption
    assert "all:" not in platforms_page.forest(found).svg
    turned = platforms_page.turnarounds(found)
    row = ["box-0 2.00", "box-1 0.50", "medians on a side", "box-1: no recorded fact"]
    assert [item.text for item in turned.rows[0]][2:] == row


def test_without_a_machine_the_part_is_empty_and_says_so(tmp_path: Path) -> None:
    found = study(tmp_path)
    for table in (platforms_page.machines(found), platforms_page.pooled(found), platforms_page.turnarounds(found)):
        assert table.rows == ()
        assert table.html
    assert "nothing to show" in platforms_page.forest(found).svg


def test_a_contribution_is_checked_in_a_line_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = study(tmp_path, 0.5)
    monkeypatch.chdir(found.project.root)
    monkeypatch.setattr(sys, "argv", ["visionquant", "verify", "--evidence"])

    def code() -> object:
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0

    assert code() == 0
    line = capsys.readouterr().out
    assert line.startswith("box-0: CPU with AVX2; 2 of 2 cells. Placebo passed:")
    (found.project.machines / "box-0" / "latency" / f"{MODEL}-int8.json").write_text("{}")
    assert code() == 1
    err = capsys.readouterr().err
    assert f"data/machines/box-0/latency/{MODEL}-int8.json: altered" in err
    assert len(err.splitlines()) == 1
