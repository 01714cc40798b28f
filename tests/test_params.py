import copy
from typing import Any

import pytest
import tiny
import yaml

from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.settings import params as parameters


def committed() -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load((tiny.ROOT / "params.yaml").read_text())
    return raw


def test_the_committed_study_is_the_supplements_16_models_and_a_trained_one_in_4_precisions() -> None:
    params = parameters.load(Project(tiny.ROOT))
    assert len(params.study.models) == 17
    assert [name for name in params.study.models if params.models[name].package] == ["dinov2-small-packaged"]
    assert params.study.precisions == ("fp32", "fp16", "int8", "nf4")
    assert params.study.batch_sizes == (1, 4, 8, 16, 32)
    assert len(params.pairs()) == len(set(params.pairs())) == 68
    assert {"quick", "paper"} <= set(params.protocols)


def test_paper_is_a_hundred_warmups_and_a_thousand_passes_over_five_rounds() -> None:
    paper = parameters.load(Project(tiny.ROOT)).protocols["paper"]
    assert paper.warmup_passes == 100
    assert (paper.rounds, paper.rounds * paper.blocks * paper.slot_passes, paper.slot_ms) == (5, 1000, 0.0)


def edited(path: str, value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(committed())
    *parents, leaf = path.split(".")
    row = raw
    for name in parents:
        row = row[name]
    if value is REMOVED:
        del row[leaf]
    else:
        row[leaf] = value
    return raw


REMOVED = "removed"
BAD = [
    ("study.models", ["vit-hug-patch14-2020"], ["vit-hug-patch14-2020", "did you mean vit-huge-patch14-2020"]),
    ("study.precisions", ["fp8"], ["fp8", "nf4"]),
    ("study.protocol", "quikc", ["quikc", "quick", "paper"]),
    ("study.models", [], ["study.models"]),
    ("study.batch_sizes", [], ["study.batch_sizes"]),
    ("study.batch_sizes", [0], ["study.batch_sizes", "1"]),
    ("study.batch_sizes", [1, 1], ["study.batch_sizes", "twice"]),
    ("study.batch_sizes", ["four"], ["study.batch_sizes", "four"]),
    ("study.device", "tpu", ["study.device", "tpu", "cpu", "cuda"]),
    ("study.weights", "random", ["study.weights", "random", "seeded"]),
    ("study.modles", ["x"], ["modles", "models"]),
    ("study.protocol", REMOVED, ["study", "protocol"]),
    ("statistics", REMOVED, ["statistics"]),
    ("extra", 1, ["extra"]),
    ("protocols.quick.rounds", "three", ["protocols.quick.rounds", "three"]),
    ("protocols.quick.rounds", 0, ["protocols.quick.rounds"]),
    ("protocols.quick.wait_s", -1.0, ["protocols.quick.wait_s"]),
    ("protocols.quick.round_s", 0.0, ["protocols.quick.round_s"]),
    ("study.minutes", 0, ["study.minutes"]),
    ("protocols.quick.attention", "flash", ["protocols.quick.attention", "flash", "sdpa", "eager"]),
    ("models.dinov2-base-2023.revision", "main", ["models.dinov2-base-2023.revision", "main"]),
    ("models.dinov2-base-2023.revision", REMOVED, ["models.dinov2-base-2023", "revision"]),
    ("models.dinov2-base-2023.input_size", 224.5, ["models.dinov2-base-2023.input_size", "224.5"]),
    ("models.dinov2-base-2023.colour", "red", ["models.dinov2-base-2023", "colour"]),
    ("models.dinov2-base-2023.path", "mine", ["models.dinov2-base-2023", "exactly one of repo_id"]),
    ("models.dinov2-small-packaged.path", "mine", ["models.dinov2-small-packaged", "exactly one of repo_id"]),
    ("models.dinov2-small-packaged.package.sha256", "90a0", ["dinov2-small-packaged.package.sha256", "90a0"]),
    ("models.dinov2-small-packaged.package.file", "w.bin", ["dinov2-small-packaged.package.file", "w.bin"]),
    ("precisions.int8.method", "magic", ["precisions.int8", "magic", "bitsandbytes_int8"]),
    ("precisions.int8.threshold", REMOVED, ["precisions.int8", "threshold"]),
    ("precisions.nf4.blocksize", 63, ["precisions.nf4.blocksize", "63"]),
    ("precisions.fp16.dtype", "half", ["precisions.fp16.dtype", "half", "float16"]),
]


@pytest.mark.parametrize(("path", "value", "named"), BAD, ids=[f"{path}={value}"[:50] for path, value, _ in BAD])
def test_a_bad_setting_is_one_line_that_names_the_key_and_what_is_allowed(
    path: str, value: Any, named: list[str]
) -> None:
    with pytest.raises(StudyError) as caught:
        parameters.parse(edited(path, value))
    text = str(caught.value)
    assert "\n" not in text
    for word in named:
        assert word in text


def test_names_that_would_collide_in_the_pipeline_are_refused() -> None:
    raw = committed()
    raw["models"]["a"] = dict(raw["models"]["dinov2-base-2023"])
    raw["models"]["a-b"] = dict(raw["models"]["dinov2-base-2023"])
    raw["precisions"]["b-c"] = dict(raw["precisions"]["fp32"])
    raw["precisions"]["c"] = dict(raw["precisions"]["fp32"])
    raw["study"]["models"], raw["study"]["precisions"] = ["a", "a-b"], ["b-c", "c"]
    with pytest.raises(StudyError, match="a-b-c"):
        parameters.parse(raw)


def test_a_dot_in_a_name_is_refused_because_the_pipeline_would_split_it() -> None:
    raw = committed()
    raw["models"]["vit-v1.5"] = raw["models"].pop("dinov2-base-2023")
    with pytest.raises(StudyError, match=r"vit-v1\.5"):
        parameters.parse(raw)


@pytest.mark.parametrize("text", ["study: [", "", "- a\n- b\n"])
def test_a_file_that_is_no_settings_is_one_line(text: str, tmp_path: Any) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(StudyError, match=r"params\.yaml"):
        parameters.load(Project(tmp_path))


@pytest.mark.parametrize("change", [{"tf32": True}, {"dtype": "float16"}, {"cpu_dtype": "bfloat16"}])
def test_the_baseline_is_plain_float32(change: dict[str, object]) -> None:
    raw = tiny.settings()
    raw["precisions"]["fp32"] |= change
    with pytest.raises(StudyError, match=r"precisions\.fp32: it is the baseline"):
        parameters.parse(raw)
