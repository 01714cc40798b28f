"""Machines of a kind are pooled where they have intervals; what was recorded tells apart where a verdict turns."""

from pathlib import Path
from typing import Any

import made
import pytest

from visionquant.analysis import platforms
from visionquant.analysis.study import Study, gather
from visionquant.core.paths import Project
from visionquant.records.record import Record
from visionquant.settings import params as parameters

MODEL = "deit-tiny-ultra-efficient"
WIDE = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")


def records(
    factors: dict[str, float],
    isa: tuple[str, ...] = WIDE,
    kernels: dict[str, int] | None = None,
    turns: bool = True,
    **environment: Any,
) -> list[Record]:
    """FP32 in 10 ms, a precision in so many times that; without turns as before rounds."""
    machine, found = made.CPU.model_copy(update={"cpu_isa": isa, **environment}), []
    for precision, factor in {"fp32": 1.0, **factors}.items():
        taken = made.times(10.0 * factor, made.WOBBLE[::-1] if precision != "fp32" else (1.0, 1.0, 1.0))
        sides: dict[str, Any] = {"base": made.times(10.0), "placebo": made.times(10.0, made.WOBBLE), "blocks": 2}
        one = made.record(MODEL, precision, [made.cell(1, taken, **(sides if turns else {}))], machine)
        assert one.conversion is not None
        proven = one.conversion.model_copy(update={"kernels": kernels})
        found.append(one.model_copy(update={"conversion": proven}))
    return found


def study(root: Path, **sets: list[Record]) -> Study:
    project = made.project(root / "study")
    for name, contents in sets.items():
        made.recorded_set(project, name, contents)
    return gather(project, parameters.load(project), local=False)


@pytest.mark.parametrize(
    ("isa", "kind"),
    [
        ((*WIDE, "amx_tile", "amx_int8"), "CPU with AMX"),
        (WIDE, "CPU with AVX-512 BF16"),
        (WIDE[:3], "CPU with AVX-512 VNNI"),
        (WIDE[:2], "CPU with AVX-512"),
        (WIDE[:1], "CPU with AVX2"),
        (("asimd",), "ARM CPU"),
        ((), "CPU of another kind"),
    ],
)
def test_a_cpu_is_of_the_kind_of_its_widest_instructions(isa: tuple[str, ...], kind: str) -> None:
    assert platforms.kind_of(made.CPU.model_copy(update={"cpu_isa": isa})) == kind


def test_a_gpu_is_a_kind_of_its_own() -> None:
    assert platforms.kind_of(made.CARD) == made.CARD.gpu


def test_speedups_with_intervals_are_pooled_by_kind_and_medians_are_counted_beside_them(tmp_path: Path) -> None:
    found = study(
        tmp_path,
        a=records({"int8": 0.5}),
        b=records({"int8": 0.48}),
        c=records({"int8": 0.52}),
        old=records({"int8": 3.0}, turns=False),
        alone=records({"int8": 2.0}, isa=("avx2",)),
    )
    pooled = {row.kind: row for row in platforms.pooled(found)}
    wide, narrow = pooled["CPU with AVX-512 BF16"], pooled["CPU with AVX2"]
    assert (wide.machines, wide.medians, wide.word) == (3, 1, "FASTER")
    assert wide.effects is not None
    assert wide.effects.ratio == pytest.approx(2.0, rel=0.02)
    assert wide.effects.low < 2.0 < wide.effects.high
    assert (narrow.machines, narrow.medians, narrow.effects, narrow.word) == (1, 0, None, "")


def test_the_error_of_a_machine_is_the_one_behind_its_interval(tmp_path: Path) -> None:
    found = study(tmp_path, a=records({"int8": 0.5}))
    row = platforms.speedups(found).iloc[0]
    assert row.error == pytest.approx(row.half / 4.302653, rel=1e-5)  # t of three rounds


def test_a_verdict_that_turns_is_told_apart_by_instructions_and_kernels(tmp_path: Path) -> None:
    found = study(
        tmp_path,
        fused=records({"nf4": 0.4}, kernels={"fused": 72}),
        plain=records({"nf4": 8.0}, isa=("avx2",), kernels={"dequantize": 72}),
        same=records({"nf4": 2.0}, kernels={"fused": 72}),
    )
    (turned,) = platforms.turnarounds(found)
    assert (turned.model, turned.precision, turned.judged) == (MODEL, "nf4", True)
    assert [*turned.faster] == ["recorded:fused"]
    assert turned.explained == {
        ("recorded:plain",): ("no avx512f", "no avx512_vnni", "no avx512_bf16", "kernel: dequantize"),
        ("recorded:same",): (),
    }


def test_what_one_side_did_not_record_tells_nothing_apart(tmp_path: Path) -> None:
    found = study(
        tmp_path,
        old=records({"nf4": 0.4}, turns=False, isa_limits=None),
        new=records({"nf4": 8.0}, kernels={"dequantize": 72}, isa_limits=("ATEN_CPU_CAPABILITY=avx2",)),
    )
    (turned,) = platforms.turnarounds(found)
    assert not turned.judged
    assert turned.explained == {("recorded:new",): ("in turns with FP32",)}


def test_machines_on_one_side_turn_nothing_and_agree(tmp_path: Path) -> None:
    found = study(tmp_path, a=records({"int8": 0.5, "nf4": 2.0}), b=records({"int8": 0.6, "nf4": 0.5}), c=records({}))
    assert [(one.model, one.precision) for one in platforms.turnarounds(found)] == [(MODEL, "nf4")]
    a, b, c = sorted(platforms.summaries(found), key=lambda one: one.run.name)
    assert (a.alike, a.shared, b.alike, b.shared, c.shared) == (1, 2, 1, 2, 0)
    assert c.half_width is None
    assert a.half_width is not None
    assert 0 < a.half_width < 0.1
    assert a.placebo.cells == 3
    assert (a.ok, a.cells) == (3, 3)


def test_what_this_machine_has_under_a_name_counts_once(tmp_path: Path) -> None:
    project = made.project(tmp_path / "study")
    mine = records({"int8": 0.5})
    made.recorded_set(project, "mine", mine)
    for one in mine:
        made.write(project.record(*one.pair), one)
    assert [run.name for run in platforms.distinct(gather(project, parameters.load(project)))] == ["mine"]
    for one in records({"int8": 0.7}):
        made.write(project.record(*one.pair), one)
    found = gather(Project(project.root), parameters.load(project))
    assert {run.name for run in platforms.distinct(found)} == {"mine", "local"}
