"""Which machine it is: what sets its speed identifies it, and what was not recorded is equal to nothing."""

import json
from pathlib import Path
from typing import Any

import made
import pytest

from visionquant.core import machine
from visionquant.core.errors import MachineMismatch
from visionquant.core.machine import SPEED, Environment
from visionquant.core.paths import Project
from visionquant.settings.precision import PrecisionRow

OLD = made.CPU.model_copy(update=dict.fromkeys(SPEED) | {"libraries": {"bitsandbytes": "0.50.2", "onnxruntime": None}})
OTHERS: dict[str, Any] = {
    "affinity": "0",
    "cpu_quota": 1.5,
    "variables": ("OMP_NUM_THREADS=1",),
    "isa_limits": ("ATEN_CPU_CAPABILITY=avx2",),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_sets_the_speed_makes_another_machine(name: str) -> None:
    other = made.CPU.model_copy(update={name: OTHERS[name]})
    (phrase,) = made.CPU.differs_from(other)
    assert phrase.startswith(name)
    assert not made.CPU.same_machine(other)
    assert made.CPU.same_hardware(other)
    assert name in made.CPU.why_unlike(other)


def test_another_onnxruntime_makes_another_machine_of_the_same_hardware() -> None:
    other = made.CPU.model_copy(update={"libraries": {**made.CPU.libraries, "onnxruntime": "1.25.0"}})
    assert made.CPU.differs_from(other) == ["onnxruntime 1.24.0 (not 1.25.0)"]
    assert made.CPU.why_unlike(other) == ""
    assert not made.CPU.same_machine(other)
    assert made.CPU.same_machine(other, ("bitsandbytes",))  # a pair that does not use it is on the same machine
    assert made.CPU.key(("bitsandbytes",)) == other.key(("bitsandbytes",))


def test_the_libraries_are_those_that_rows_of_precisions_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(machine.probe("cpu").libraries) == ["bitsandbytes", "hqq", "nncf", "onnx", "onnxruntime", "openvino"]
    monkeypatch.setattr(machine, "_engine_libraries", set())

    class NewEngine(PrecisionRow):
        engine, family, libraries = "new", "new", ("a-package-that-is-not-there",)

    assert NewEngine.libraries
    new = machine.probe("cpu")
    assert new.libraries == {"a-package-that-is-not-there": "absent"}
    assert not new.same_machine(made.CPU, NewEngine.libraries)


def test_an_environment_of_an_earlier_schema_names_its_libraries() -> None:
    raw = made.CPU.model_dump(mode="json")
    libraries = raw.pop("libraries")
    old = Environment.model_validate(raw | {"bitsandbytes": libraries["bitsandbytes"]})
    assert old.libraries == {"bitsandbytes": "0.50.2", "onnxruntime": None}
    assert old.unrecorded == ("onnxruntime",)
    assert old.differs_from(made.CPU) == []
    assert old.same_machine(made.CPU, ("bitsandbytes",))
    assert not old.same_machine(made.CPU, ("onnxruntime",))


@pytest.mark.parametrize(("one", "other"), [(OLD, made.CPU), (made.CPU, OLD), (OLD, OLD)])
def test_what_was_not_recorded_is_neither_equal_nor_different(one: Environment, other: Environment) -> None:
    assert one.differs_from(other) == []
    assert not one.same_machine(other)
    assert one.why_unlike(other) == ("what sets the speed was not recorded: affinity, cpu_quota, variables, isa_limits")


def test_the_probe_sees_what_this_process_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    before = machine.probe("cpu")
    assert before.unrecorded == ()
    assert before.same_machine(machine.probe("cpu"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    variables, limits = machine.probe("cpu").differs_from(before)
    assert "OMP_NUM_THREADS=2 (not" in variables
    assert limits.startswith("isa_limits ATEN_CPU_CAPABILITY=avx2 (not")


def test_a_declaration_of_an_earlier_version_is_made_again(tmp_path: Path) -> None:
    project = Project(tmp_path)
    machine.declare(project, machine.probe("cpu"))
    assert machine.require_declared(project, "cpu")
    raw = json.loads(project.environment.read_text())
    project.environment.write_text(
        json.dumps({key: value for key, value in raw.items() if key not in (*SPEED, "libraries")})
    )
    with pytest.raises(MachineMismatch, match=r"does not record.*run `visionquant environment`"):
        machine.require_declared(project, "cpu")
