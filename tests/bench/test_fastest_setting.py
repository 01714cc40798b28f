"""Settings of a model measured in rounds that take turns; the best, by how much, and the line that serves it."""

from pathlib import Path

import pytest
import tiny

from visionquant import cli
from visionquant.bench import fastest_setting
from visionquant.bench.fastest_setting import Setting, Tuned
from visionquant.core.paths import Project


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
    assert ratio.value == pytest.approx((2 * 2 * 2.5) ** (1 / 3))
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < 2 < ratio.high
    assert fastest_setting.over(LARGE, PLAIN).value == pytest.approx(4.0)
    assert fastest_setting.over(tuned([5.0]), PLAIN)[1:] == (None, None)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project, _ = tiny.project(tmp_path, tiny.settings(precisions=("fp32", "nf4")))
    monkeypatch.chdir(tmp_path)
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


def test_tune_measures_prints_the_best_and_goes_on(
    study: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "tune",
        "--model",
        "tiny-vit",
        "--precision",
        "nf4",
        "--batch-size",
        "2",
        "--threads",
        "1",
        "--rounds",
        "2",
    )
    code, out, err = run(capsys, monkeypatch, *words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    best = next(line for line in lines if line.startswith("best: "))
    assert best.endswith(" times the images/s of fp32, 1 thread, batch size 2")
    chosen = next(name for name in ("nf4", "fp32") if best.startswith(f"best: {name}, 1 thread, batch size 2, "))
    assert lines[-1] == f"OMP_NUM_THREADS=1 visionquant serve --model tiny-vit --precision {chosen} --batch-size 2"
    assert len([line for line in lines if "images/s" in line and not line.startswith("best")]) == 2
    samples = sorted((study.local / "tuning" / "threads-1" / "samples").glob("*.json.gz"))
    assert [path.name for path in samples] == ["tiny-vit-fp32.json.gz", "tiny-vit-nf4.json.gz"]
    assert not (study.local / "samples").exists()  # the study's own evidence is another

    before = [path.read_bytes() for path in samples]
    code, again, _ = run(capsys, monkeypatch, *words)
    assert (code, again.splitlines()[-1]) == (0, lines[-1])
    assert [path.read_bytes() for path in samples] == before

    code, _, err = run(capsys, monkeypatch, *words, "--latency-limit-ms", "0.001")
    assert code == 1
    assert err.startswith("visionquant: --latency-limit-ms 0.001: the quickest batch takes ")
    assert err.count("\n") == 1


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
