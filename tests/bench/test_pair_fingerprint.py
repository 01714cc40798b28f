"""Which edits make a pair's record stale: those of what the pair passes through, and no others."""

from pathlib import Path

import pytest
import tiny

from visionquant.bench import pair_fingerprint
from visionquant.core.paths import Project
from visionquant.settings import params as parameters

ROWS = parameters.load(Project(tiny.ROOT)).precisions
NAMES = ("fp32", "int8", "nf4", "fp4", "hqq3", "mixed-sensitive", "fp32_onnxruntime", "int8_openvino")
BACKENDS = "visionquant/bench/backends"
NEW_ROW = """

class NewPrecision(PrecisionRow):
    engine, family, libraries = "new", "new", ("scipy",)
    method: Literal["new"]
"""


def edited(path: str, *replaced: tuple[str, str], more: str = "") -> set[str]:
    """Which of ``NAMES`` have another fingerprint after an edit of a module."""
    source = pair_fingerprint.AT_IMPORT.get(path, b"").decode()
    for old, new in replaced:
        assert old in source
        source = source.replace(old, new, 1)
    code = {**pair_fingerprint.AT_IMPORT, path: (source + more).encode()}
    digest = pair_fingerprint.measuring_sha256
    return {name for name in NAMES if digest(ROWS[name]) != digest(ROWS[name], code)}


def test_a_new_engine_and_its_row_change_no_other_fingerprint() -> None:
    assert edited(f"{BACKENDS}/new.py", more="import scipy\n") == set()
    union = "| OpenVinoPrecision"
    assert edited("visionquant/settings/precision.py", (union, f"{union} | NewPrecision"), more=NEW_ROW) == set()


@pytest.mark.parametrize(
    ("engine", "names"),
    [
        ("eager", set(NAMES) - {"fp32_onnxruntime", "int8_openvino"}),
        ("bnb", {"int8", "nf4", "fp4", "mixed-sensitive"}),
        ("bnb_fp4", {"fp4"}),
        ("hqq", {"hqq3"}),
        ("mixed", {"mixed-sensitive"}),
        ("ort", {"fp32_onnxruntime"}),
        ("openvino", {"int8_openvino"}),
        ("onnx_graph", {"fp32_onnxruntime", "int8_openvino"}),
    ],
)
def test_an_engine_belongs_to_the_precisions_that_run_in_it(engine: str, names: set[str]) -> None:
    assert edited(f"{BACKENDS}/{engine}.py", more="\nEDITED = 1\n") == names


@pytest.mark.parametrize("path", ["bench/clock.py", "settings/params.py", "bench/backends/eager.py"])
def test_comments_and_docstrings_change_none(path: str) -> None:
    path = f"visionquant/{path}"
    first_line = pair_fingerprint.AT_IMPORT[path].decode().splitlines()[0]
    assert edited(path, (first_line[:12], '"""Other words, '), more="\n# a comment\n\n\n") == set()


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("visionquant/settings/params.py", "self.rounds if batch_size == 1", "self.rounds if batch_size == 2"),
        ("visionquant/core/driver.py", "handle_of(nvml, first)", "handle_of(nvml, None)"),
        ("visionquant/bench/clock.py", "HALF, AGREES = 10, 0.02", "HALF, AGREES = 10, 0.2"),
        ("visionquant/bench/turns.py", "turn[::-1] if", "turn if"),
        ("visionquant/bench/kernels.py", "FILL_MS, FEWEST = 10.0", "FILL_MS, FEWEST = 30.0"),
        ("visionquant/bench/host.py", "TICKS_S = 0.02", "TICKS_S = 0.0"),
        ("visionquant/bench/prepared.py", "REPEATS = 0.999999", "REPEATS = 0.9"),
        ("visionquant/records/cell.py", "BUSY_PRESSURE = 0.05", "BUSY_PRESSURE = 0.5"),
        ("visionquant/bench/loading.py", "float = 0.02", "float = 0.03"),
        ("visionquant/core/processors.py", "def usable", "def usable_"),
    ],
)
def test_what_decides_the_measurement_changes_all(path: str, old: str, new: str) -> None:
    assert edited(path, (old, new)) == set(NAMES)


def test_a_row_belongs_to_its_own_precisions() -> None:
    path = "visionquant/settings/precision.py"
    assert edited(path, ("tf32: bool = False", "tf32: bool = True")) == {"fp32"}
    assert edited(path, ('"cpu_dtype" if device', '"dtype" if device')) == set(NAMES)


def test_settings_of_other_things_and_pages_change_none() -> None:
    for path in (
        "settings/sections.py",
        "bench/plan.py",
        "bench/executor.py",
        "bench/slurm.py",
        "records/upgrade.py",
        "report/verify.py",
        "analysis/study.py",
        "deploy/predictor.py",
        "core/errors.py",
    ):
        assert edited(f"visionquant/{path}", more="\nEDITED = 1\n") == set()


def test_files_edited_after_the_import_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ROWS["fp32"]
    assert pair_fingerprint.unchanged_on_disk(row)
    code = {**pair_fingerprint.AT_IMPORT, "visionquant/bench/clock.py": b"HALF = 11\n"}
    monkeypatch.setattr(pair_fingerprint, "modules", lambda: code)
    assert not pair_fingerprint.unchanged_on_disk(row)
