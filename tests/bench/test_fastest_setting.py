"""Settings of a model measured in turns; the best, by how much, and the line that serves it."""

from pathlib import Path

import pytest
import tiny

from visionquant import cli
from visionquant.bench import fastest_setting
from visionquant.bench.fastest_setting import Setting, Tuned
from visionquant.core import processors
from visionquant.core.paths import Project
from visionquant.records import cell as cells
from visionquant.records import record as records
from visionquant.records.record import Record


def tuned(ms: list[float], threads: int = 1, precision: str = "fp32", size: int = 1, why: str = "") -> Tuned:
    return Tuned(Setting(threads, precision, size), dict(enumerate(ms, 1)), why)


PLAIN = tuned([10.0, 20.0, 10.0])
QUICK = tuned([5.0, 10.0, 5.0], precision="int8")
LARGE = tuned([20.0, 40.0, 20.0], size=8)


def test_the_best_has_most_images_a_second_within_the_limit() -> None:
    found = [PLAIN, QUICK, LARGE, tuned([], precision="nf4", why="unsupported")]
    assert [one.images_per_s for one in found[:3]] == [100.0, 200.0, 400.0]
    assert fastest_setting.best(found) is LARGE
    assert fastest_setting.best(found, 20.0) is LARGE
    assert fastest_setting.best(found, 19.9) is QUICK
    assert fastest_setting.best(found, 4.0) is None
    assert fastest_setting.best(found[3:]) is None


def test_a_ratio_is_formed_round_by_round() -> None:
    exact = fastest_setting.over(QUICK, PLAIN)  # the machine was twice as slow in the second round, for both
    assert exact == pytest.approx((2.0, 2.0, 2.0))
    ratio = fastest_setting.over(tuned([5.0, 10.0, 4.0]), PLAIN)
    assert ratio is not None
    assert ratio.value == pytest.approx((2 * 2 * 2.5) ** (1 / 3))
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < 2 < ratio.high
    assert fastest_setting.over(LARGE, PLAIN) == pytest.approx((4.0, 4.0, 4.0))
    alone = fastest_setting.over(tuned([5.0]), PLAIN)
    assert alone is not None
    assert alone[1:] == (None, None)
    assert fastest_setting.over(tuned([]), PLAIN) is None


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A machine that is never busy, whatever else runs on it."""
    project, _ = tiny.project(tmp_path, tiny.settings(precisions=("fp32", "nf4")))
    monkeypatch.chdir(tmp_path)
    for limit in ("BUSY_OTHERS", "BUSY_STEAL", "BUSY_PRESSURE"):
        monkeypatch.setattr(cells, limit, 99.0)
    return project


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["visionquant", *words])
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_tune_measures_in_turns_and_prints_the_best(
    study: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "usable", lambda: 2)
    words = ("tune", "--model", "tiny-vit", "--precision", "nf4", "--batch-size", "2", "--turns", "2")
    code, out, err = run(capsys, monkeypatch, *words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    taken = [line.split(":")[0] for line in lines if ", round " in line]
    assert taken == [
        f"tiny-vit, {threads} batch 2, round {turn} of 2"
        for threads, turn in (("1 thread", 1), ("2 threads", 1), ("2 threads", 2), ("1 thread", 2))
    ]
    best = next(line for line in lines if line.startswith("best: "))
    assert best.endswith(" times the images/s of fp32, 2 threads, batch size 2")
    precision, threads = best.removeprefix("best: ").split(" thread")[0].split(", ")
    serving = f"visionquant serve --model tiny-vit --precision {precision} --batch-size 2"
    assert lines[-1] == f"OMP_NUM_THREADS={threads} {serving}"
    assert len([line for line in lines if "images/s" in line and not line.startswith("best")]) == 4
    for count in (1, 2):
        samples = sorted((study.local / "tuning" / f"threads-{count}" / "samples").glob("*.json.gz"))
        assert [path.name for path in samples] == ["tiny-vit-fp32.json.gz", "tiny-vit-nf4.json.gz"]
        for path in samples:
            (cell,) = records.read_samples(path).cells
            assert {each.threads for each in cell.rounds} == {count}
    assert not (study.local / "samples").exists()  # the study's own evidence is another

    # Another model, and a limit that nothing keeps: what is there from before is in no way.
    words = (
        "tune",
        "--model",
        "tiny-deit",
        "--precision",
        "fp16",
        "--batch-size",
        "1",
        "--threads",
        "1",
        "--turns",
        "2",
    )
    code, _, err = run(capsys, monkeypatch, *words, "--latency-limit-ms", "0.001")
    assert code == 1
    assert err.startswith("visionquant: --latency-limit-ms 0.001: the quickest batch takes ")
    assert err.count("\n") == 1


def test_a_setting_whose_outputs_are_no_numbers_is_never_the_best(
    study: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real samples of a setting, with what the audit of an overflow would have written."""
    real = fastest_setting.records.read_samples

    def overflowed(path: Path) -> Record:
        found = real(path)
        lost = {"status": "non_finite", "reason": "the outputs hold NaN or infinity; the timings are of that"}
        cells = tuple(cell.model_copy(update=lost) for cell in found.cells)
        return found.model_copy(update={"cells": cells}) if "nf4" in path.name else found

    monkeypatch.setattr(fastest_setting.records, "read_samples", overflowed)
    words = ("tune", "--model", "tiny-vit", "--precision", "nf4", "--batch-size", "1", "--threads", "1", "--turns", "2")
    code, out, _ = run(capsys, monkeypatch, *words)
    assert code == 0
    lines = out.splitlines()
    assert "nf4, 1 thread, batch size 1: the outputs hold NaN or infinity; the timings are of that" in lines
    assert lines[-1] == "OMP_NUM_THREADS=1 visionquant serve --model tiny-vit --precision fp32 --batch-size 1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "tiny-vitt"), "no row named tiny-vitt"),
        (("--model", "tiny-vit", "--precision", "int7"), "no row named int7"),
        (("--model", "tiny-vit", "--threads", "4096"), "--threads 4096: this process may use "),
    ],
)
def test_what_can_not_be_tuned_is_one_line(
    study: Project,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    code, _, err = run(capsys, monkeypatch, "tune", *words)
    assert code != 0
    assert said in err
    assert err.count("\n") == 1
    assert not (study.local / "tuning").exists()
