"""What else the machine was doing, read from real processes and from files in the kernel's format."""

import multiprocessing
import os
import re
from pathlib import Path

import psutil
import pytest
import tiny

from visionquant.bench import host
from visionquant.bench.device import Cuda, Device
from visionquant.bench.host import Reading
from visionquant.core.errors import StudyError
from visionquant.settings.params import Protocol

TICKS = os.sysconf("SC_CLK_TCK")


def protocol(busy: str) -> Protocol:
    return Protocol.model_validate({**tiny.PROTOCOL, "busy": busy})


def stat(path: Path, user_s: float, idle_s: float, steal_s: float = 0.0) -> Path:
    numbers = [user_s, 0, 0, idle_s, 0, 0, 0, steal_s, 0, 0]
    path.write_text("cpu  " + " ".join(str(int(one * TICKS)) for one in numbers) + "\ncpu0 0\n")
    return path


def test_what_this_process_did_not_use_others_did(tmp_path: Path) -> None:
    cores = os.cpu_count() or 1
    before = Reading.now(stat(tmp_path / "before", 10, 100))
    after = Reading.now(stat(tmp_path / "after", 10 + 3 * cores, 107, steal_s=2 * cores))
    before, after = Reading(before.busy_s, 0.0, 0.0), Reading(after.busy_s, 4.0 * cores, 10.0)
    assert host.others_share(before, after) == pytest.approx(0.1)  # of (3 + 2) x 10 s, 4 x 10 s were its own
    assert host.others_share(before, Reading(None, 0.0, 10.0)) is None
    assert host.others_share(before, Reading(before.busy_s, 5.0, 10.0)) is None  # a kernel that does not count
    assert Reading.now(tmp_path / "nothing").busy_s is None


@pytest.mark.parametrize(
    ("share", "kind", "gpu", "word"),
    [
        (0.0, "cpu", "busy", "clean"),
        (0.5, "cpu", "clean", "busy"),
        (None, "cpu", "clean", "unknown"),
        (0.0, "cuda", "clean", "clean"),
        (0.0, "cuda", "unknown", "unknown"),
        (0.0, "cuda", "elsewhere", "unknown"),
        (0.5, "cuda", "unknown", "busy"),
        (None, "cuda", "busy", "busy"),
    ],
)
def test_the_worst_of_both_processors_is_the_word(share: float | None, kind: str, gpu: str, word: str) -> None:
    class Shared(Cuda):
        def computing(self) -> set[int] | None:
            return {"busy": {os.getpid(), 1}, "clean": {os.getpid()}, "unknown": None, "elsewhere": {1}}[gpu]

    assert host.isolation(share, Shared() if kind == "cuda" else Device()) == word


def spin() -> None:
    while True:
        pass


def test_a_busy_machine_is_refused_unless_asked_for_and_the_culprit_is_named() -> None:
    others = [multiprocessing.get_context("fork").Process(target=spin, daemon=True) for _ in range(os.cpu_count() or 1)]
    for one in others:
        one.start()
    try:
        host.require_quiet(protocol("allow"), Device(), patience_s=0.0)
        before = Reading.now()
        with pytest.raises(
            StudyError, match=r"measure: other processes keep \d+ % of the machine busy \(\S+ \d+ %.*allow"
        ):
            host.require_quiet(protocol("refuse"), Device(), patience_s=0.0)
        seen = host.conditions_since(before, Device())
        assert seen.isolation == "busy"
        assert seen.others_share is not None
        assert seen.others_share > host.BUSY_SHARE
    finally:
        for one in others:
            one.kill()
            one.join()


def test_who_computes_on_the_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    other, gone = os.getppid(), 2**22 + 1  # beyond the kernel's highest number
    monkeypatch.setattr(Cuda, "computing", lambda self: {os.getpid(), other, gone})
    name = psutil.Process(other).name()
    with pytest.raises(StudyError, match=rf"on the GPU \({re.escape(name)} {other}, process {gone}\); end them"):
        host.require_quiet(protocol("refuse"), Cuda())


def test_it_waits_for_the_others_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shares, slept = iter([0.8, 0.3, host.BUSY_SHARE]), list[float]()
    monkeypatch.setattr(host, "others_share", lambda before, after: next(shares))
    monkeypatch.setattr(host.time, "sleep", slept.append)
    host.require_quiet(protocol("refuse"), Device(), patience_s=600.0)
    assert slept == [host.LOOK_S] * 3
    assert next(shares, "all were asked for") == "all were asked for"


def test_conditions_of_this_process_are_filled_in() -> None:
    found = host.conditions_since(Reading.now(), Device())
    assert found.omp_wait_policy == os.environ.get("OMP_WAIT_POLICY", "not set")
    assert found.load_1m is not None
    assert found.gpu is None
