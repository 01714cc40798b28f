"""The guide's recipes on tiny models: rows that share their keys, figures that can be checked, tables made of them."""

from pathlib import Path

import pytest
import tiny
import torch

from visionquant import recipes
from visionquant.analysis import study as evidence
from visionquant.core import machine
from visionquant.core.paths import Project
from visionquant.recipes import checkpointing, compile, half, storage, timing
from visionquant.records import outcomes
from visionquant.records.outcomes import Recipe
from visionquant.report.columns import recipe_tables as tables
from visionquant.report.pages import guide_page
from visionquant.report.table import Table
from visionquant.settings.params import Params

SPECS = {one.id: one for one in (guide_page.HALF, guide_page.STORAGE, guide_page.CHECKPOINTING, guide_page.COMPILE)}
pytestmark = pytest.mark.filterwarnings("ignore:MatMul8bitLt")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Project, Params]:
    monkeypatch.setattr(half, "NETWORK", "tiny-digits")
    monkeypatch.setattr(half, "EPOCHS", 1)
    monkeypatch.setattr(half, "MODEL", "tiny-vit")
    for module in (storage, checkpointing, compile):
        monkeypatch.setattr(module, "MODELS", ("tiny-vit",))
    monkeypatch.setattr(compile, "BATCHES", (1,))
    return tiny.project(tmp_path)


def kept(project: Project, params: Params, found: Recipe) -> Table:
    assert len({frozenset(row) for row in found.rows}) == 1
    written = outcomes.read_recipe(outcomes.write_recipe(project, found, params))
    assert written.model_copy(update={"settings": None}) == found
    (table,) = tables(evidence.gather(project, params), SPECS[found.name])
    assert len(table.rows) == len(found.rows)
    assert found.command in table.source
    return table


def test_half(study: tuple[Project, Params]) -> None:
    project, params = study
    found = half.run(project, params, machine.probe("cpu"))
    kept(project, params, found)
    learnt = [row for row in found.rows if row["part"] == "training"]
    assert [row["way"] for row in learnt] == ["fp32", "bfloat16 autocast", "bfloat16 autocast, checkpoints"]
    assert {row["held_out"] for row in learnt} == {899}
    assert learnt[1]["right"] == learnt[2]["right"]  # the same arithmetic
    run = [row for row in found.rows if row["part"] == "inference"]
    assert [(row["way"], row["batch_size"]) for row in run][:3] == [
        ("fp32", 1),
        ("bfloat16 weights", 1),
        ("bfloat16 autocast", 1),
    ]
    assert [row["cosine"] for row in run if row["way"] == "fp32"] == [1.0, 1.0]
    assert all(0.99 < float(str(row["cosine"])) <= 1 for row in run)


def test_storage(study: tuple[Project, Params]) -> None:
    project, params = study
    found = storage.run(project, params, machine.probe("cpu"))
    table = kept(project, params, found)
    assert [row["precision"] for row in found.rows] == [*storage.PRECISIONS, storage.DOUBLE]
    assert {row["identical"] for row in found.rows} == {"yes"}
    assert [item.text for item in table.rows[0][:2]] == ["tiny-vit", "FP32"]
    assert table.rows[0][3].text == "100.0"


def test_checkpointing(study: tuple[Project, Params]) -> None:
    project, params = study
    found = checkpointing.run(project, params, machine.probe("cpu"))
    kept(project, params, found)
    plain, checkpoints = found.rows
    assert plain["share"] == 1.0
    assert float(str(checkpoints["share"])) < 0.5
    assert {row["same_gradients"] for row in found.rows} == {"yes"}


def test_gradients_are_the_same_to_the_last_bit_on_a_cpu_and_to_rounding_on_a_gpu() -> None:
    first = torch.tensor([1.0, -3.0])
    near, far = first * (1 + 1e-6), first * (1 + 1e-3)
    assert checkpointing._same(first, first.clone(), "cpu")
    assert not checkpointing._same(first, near, "cpu")
    assert checkpointing._same(first, near, "cuda")
    assert not checkpointing._same(first, far, "cuda")


def test_what_can_not_be_compiled_is_a_row_with_a_reason(
    study: tuple[Project, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[object] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda *given: passes.append(given))

    def refused(*_: object) -> None:
        assert passes  # what starts with a first pass is no part of compiling
        passes.clear()
        raise compile.StudyError("torch.compile", "no working C++ compiler", "install g++")

    monkeypatch.setattr(compile.compute, "compiled", refused)
    project, params = study
    try:
        found = compile.run(project, params, machine.probe("cpu"))
    finally:
        hook.remove()
    table = kept(project, params, found)
    assert [row["way"] for row in found.rows] == [
        "fp32 eager",
        "bfloat16 eager",
        "fp32 compiled",
        "bfloat16 compiled",
    ]
    assert found.rows[2]["median_ms"] is None
    assert table.rows[2][3].note == "torch.compile: no working C++ compiler; install g++"


def test_before_a_recipe_was_run_its_table_names_the_command(study: tuple[Project, Params]) -> None:
    project, params = study
    for name, spec in SPECS.items():
        (table,) = tables(evidence.gather(project, params), spec)
        assert table.rows == ()
        assert f"`visionquant recipe {name}`" in table.source
        assert name in recipes.NAMES


def test_ways_take_turns_and_ratios_are_of_the_same_round() -> None:
    order: list[str] = []
    times = timing.take({name: lambda name=name: order.append(name) for name in "abc"}, "cpu", rounds=4)
    assert ["".join(order[i : i + 3]) for i in range(6, 18, 3)] == ["abc", "cba", "bca", "acb"]
    assert {name: len(each) for name, each in times.items()} == {"a": 4, "b": 4, "c": 4}
    made = {"slow": [2.0, 40.0, 2.0], "fast": [1.0, 10.0, 1.0]}
    assert timing.speedup(made, "fast", "slow") == 2.0
    assert timing.milliseconds(made, "slow") == 2000.0
