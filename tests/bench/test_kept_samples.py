"""Rounds that a pair has outlive a later failure, and go on when it has passed."""

from pathlib import Path
from typing import Any

import pytest
import scripted
import tiny

from visionquant.bench import prepared, sampling
from visionquant.bench.command import Command, Matrix
from visionquant.records.record import read_samples


def test_a_round_that_fails_leaves_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, params = tiny.project(tmp_path)
    asked = Matrix.of(params, batch_sizes=[1])

    def status_and_rounds(command: Command) -> tuple[str, list[int]]:
        with scripted.others():
            sampling.sweep(project, params, asked, command)
        (cell,) = read_samples(project.samples("tiny-vit", "nf4")).cells
        return cell.status, [one.number for one in cell.rounds]

    assert status_and_rounds(Command(rounds=1)) == ("ok", [1])
    real = prepared.network_of

    def full(source: Any, precision: str, *given: Any) -> Any:
        if precision == "nf4":
            raise MemoryError("no memory is left")
        return real(source, precision, *given)

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "network_of", full)
        assert status_and_rounds(Command()) == ("out_of_memory", [1])
    status, numbers = status_and_rounds(Command(retry=True))
    assert (status, numbers) == ("ok", [1, 2])
