"""A record and its samples belong together; what others disturbed is kept, told apart, and judged by a rule."""

import gzip
from collections.abc import Callable
from pathlib import Path

import made
import pytest

from visionquant.core.errors import StudyError
from visionquant.records import record as records
from visionquant.records.cell import BUSY_OTHERS, BUSY_PRESSURE, BUSY_STEAL, PLACEBO, Cell, Round, Slot

MODEL, TIMES = "vit-base-224-production", [[2.0, 2.1], [2.2, 2.0], [1.9, 2.0]]
QUIET, BUSY = 0.0, 1.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "latency" / f"{MODEL}-int8.json"


def slot(arm: str, block: int, others: float = QUIET, attempt: int = 0) -> Slot:
    return Slot(arm=arm, block=block, order=0, attempt=attempt, wall_ms=(2.0,), others=others)


def cell(*rounds: tuple[Slot, ...]) -> Cell:
    """A sampled cell of rounds with these slots."""
    taken = (Round(number=n, started_at=None, threads=1, omp_wait_policy="", slots=r) for n, r in enumerate(rounds, 1))
    return Cell(batch_size=1, status="ok", reason="", planned=len(rounds), rounds=tuple(taken))


def turn(others: float = QUIET, of: str = PLACEBO) -> tuple[Slot, ...]:
    """A block of three arms, of which one may be disturbed."""
    return tuple(slot(arm, 0, others if arm == of else QUIET) for arm in ("fp32", "int8", PLACEBO))


def test_a_record_is_what_its_samples_say_without_them_and_reads_as_both(path: Path) -> None:
    sampled = made.record(MODEL, "int8", [made.cell(1, TIMES, TIMES), made.cell(4, TIMES, TIMES, others=BUSY)])
    written = made.write(path, sampled)
    assert b"wall_ms" not in path.read_bytes()
    assert records.read(path) == written
    assert [one.rounds for one in written.cells] == [one.rounds for one in sampled.cells]
    assert [one.status for one in written.cells] == ["ok", "busy"]


def test_the_same_samples_give_the_same_bytes_and_leave_the_record_alone(path: Path) -> None:
    sampled = made.record(MODEL, "int8", [made.cell(1, TIMES, TIMES)])
    made.write(path, sampled)
    samples, before = records.samples_of(path), path.stat()
    first = samples.read_bytes()
    assert made.write(path, sampled).samples_sha256 == records.read(path).samples_sha256
    assert samples.read_bytes() == first
    assert path.stat().st_ino == before.st_ino


def cut(samples: Path) -> None:
    samples.write_bytes(samples.read_bytes()[:-20])


def other(samples: Path) -> None:
    records.write_samples(samples, made.record(MODEL, "int8", [made.cell(1, TIMES[::-1], TIMES)]))


@pytest.mark.parametrize(
    ("damage", "found"), [(Path.unlink, "missing"), (cut, "other samples"), (other, "other samples")]
)
def test_a_record_without_its_own_samples_is_one_clear_line(
    path: Path, damage: Callable[[Path], None], found: str
) -> None:
    made.write(path, made.record(MODEL, "int8", [made.cell(1, TIMES, TIMES)]))
    damage(records.samples_of(path))
    with pytest.raises(StudyError, match=rf"samples/{MODEL}-int8.json.gz: {found}.*measure the pair again$"):
        records.read(path)


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"\xff", mtime=0), gzip.compress(b"{", mtime=0)])
def test_broken_samples_give_no_record(path: Path, content: bytes) -> None:
    samples = records.samples_of(path)
    samples.parent.mkdir(parents=True)
    samples.write_bytes(content)
    with pytest.raises(StudyError, match=rf"{MODEL}-int8.json.gz: broken.*measure the pair again$"):
        records.write(path)
    assert not path.exists()


def test_no_samples_give_no_record(path: Path) -> None:
    with pytest.raises(StudyError, match=r"there is none; measure the pair again"):
        records.write(path)


@pytest.mark.parametrize(
    ("name", "limit"), [("others", BUSY_OTHERS), ("steal", BUSY_STEAL), ("pressure", BUSY_PRESSURE)]
)
def test_a_slot_is_busy_beyond_each_limit_and_where_nothing_is_known_it_is_not(name: str, limit: float) -> None:
    quiet = slot("int8", 0).model_copy(update={"others": None})
    assert not quiet.busy
    assert not quiet.model_copy(update={name: limit}).busy
    assert quiet.model_copy(update={name: 1.01 * limit}).busy


def test_of_a_block_that_was_repeated_the_undisturbed_attempt_counts() -> None:
    again = tuple(one.model_copy(update={"attempt": 1}) for one in turn())
    sampled = cell((*turn(BUSY), *again))
    (block,) = sampled.rounds[0].blocks("int8", "fp32", PLACEBO)
    assert [(one.arm, one.attempt) for one in block] == [("int8", 1), ("fp32", 1), (PLACEBO, 1)]
    assert sampled.quiet_rounds("int8") == 1
    assert sampled.times_ms("int8") == [[2.0, 2.0]]  # its own slots were quiet both times


def test_a_block_counts_only_where_every_arm_took_its_turn() -> None:
    assert [*cell(turn()[:2]).rounds[0].blocks("int8", "fp32", PLACEBO)] == []


@pytest.mark.parametrize(
    ("disturbed", "status", "reason"),
    [
        ([QUIET], "ok", ""),
        ([BUSY], "busy", "others were busy in 1 of 1 rounds"),
        ([QUIET, BUSY], "busy", "others were busy in 1 of 2 rounds"),
        ([QUIET, BUSY, QUIET, BUSY], "ok", ""),
        ([BUSY, BUSY, QUIET, BUSY], "busy", "others were busy in 3 of 4 rounds"),
    ],
)
@pytest.mark.parametrize("arm", ["fp32", "int8", PLACEBO])
def test_a_cell_is_busy_where_less_than_two_rounds_were_left_alone(
    disturbed: list[float], status: str, reason: str, arm: str
) -> None:
    found = records.settled(cell(*(turn(others, arm) for others in disturbed)), "int8")
    assert (found.status, found.reason) == (status, reason)


def test_what_could_not_be_measured_stays_as_it_is() -> None:
    failed = cell(turn(BUSY)).model_copy(update={"status": "out_of_memory", "reason": "no memory"})
    assert records.settled(failed, "int8") == failed
