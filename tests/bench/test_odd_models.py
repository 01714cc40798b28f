"""One odd model does not end the study: each works or is a clear row, and what comes after it is measured."""

import json
from typing import Any

import families
import pytest
import scripted
import tiny

from visionquant.analysis import decision
from visionquant.analysis import study as evidence
from visionquant.bench import plan, sampling
from visionquant.bench.command import Matrix
from visionquant.core.paths import Project
from visionquant.records import record as records
from visionquant.records.record import Record
from visionquant.settings.params import Params

PRECISIONS = ("fp32", "int8", "mixed-sensitive")
VIT = tiny.CONFIGS["tiny-vit"]
# By name: config, and the row's input size.
ODD: dict[str, tuple[dict[str, Any], Any]] = {
    "bert": ({"model_type": "bert", **families.CONFIGS["siglip"]["text_config"]}, 32),
    "convnext": ({"model_type": "convnext", **families.CONFIGS["convnext"]}, 32),
    "grey": ({**VIT, "num_channels": 1}, 32),
    "misfit": (VIT, 64),
    "resnet": ({"model_type": "resnet", **families.CONFIGS["resnet"]}, 64),
    "siglip": ({"model_type": "siglip", **families.CONFIGS["siglip"]}, 32),
    "vit_mae": ({"model_type": "vit_mae", **families.CONFIGS["vit_mae"]}, 32),
    "wide": ({**VIT, "image_size": [32, 64]}, [32, 64]),
}
SWIN = "swin-classifier"
MODELS = (SWIN, *ODD, "tiny-vit")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params]:
    raw = tiny.settings(MODELS, PRECISIONS)
    raw["study"] |= {"weights": "auto", "batch_sizes": [1]}
    raw["protocols"]["tiny"] |= {"rounds": 1, "blocks": 1, "fidelity_images": 2}
    raw["models"][SWIN] = families.row(SWIN)
    for name, (_, size) in ODD.items():
        raw["models"][name] = {"repo_id": f"tiny/{name}", "revision": "0" * 40, "input_size": size}
    project, params = tiny.project(tmp_path_factory.mktemp("study"), raw)
    for name, (config, _) in ODD.items():
        (project.architectures / name).mkdir()
        (project.architectures / name / "config.json").write_text(json.dumps(config))
    families.classifier("swin", tiny.pictures(2, 32)).save_pretrained(project.root / "models" / "swin")
    return project, params


@pytest.fixture(scope="module")
def swept(study: tuple[Project, Params]) -> dict[tuple[str, str], Record]:
    """All of it in one sweep on a quiet machine."""
    with scripted.others():
        assert sampling.sweep(*study, Matrix.of(study[1])).complete
    return {pair: records.write(study[0].record(*pair)) for pair in Matrix.of(study[1]).pairs}


def only(record: Record) -> records.Cell:
    (cell,) = record.cells
    return cell


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", [SWIN, "convnext", "grey", "siglip", "wide", "tiny-vit"])
def test_what_can_be_measured_is(model: str, precision: str, swept: dict[tuple[str, str], Record]) -> None:
    record = swept[model, precision]
    assert only(record).status == "ok", only(record).reason
    assert record.fidelity is not None
    assert (record.fidelity.cosine or 0) > 0.95
    assert record.fidelity_reason == ""
    assert record.conversion is not None
    assert (record.conversion.quantized_modules > 0) == (precision != "fp32")
    names = {SWIN: "SwinModel", "siglip": "SiglipVisionModel", "convnext": "ConvNextModel"}
    assert record.conversion.knobs["class"] == names.get(model, "ViTModel")
    if model == SWIN:
        assert record.fidelity.logits_from == "the checkpoint's own head"


@pytest.mark.parametrize(
    ("model", "precision", "words"),
    [
        ("resnet", "int8", "precision bitsandbytes_int8: no Linear layer was quantised, of 0 in the model; study"),
        ("resnet", "mixed-sensitive", "no Linear layer of this model matches it"),
        ("misfit", "fp32", "made for 32 x 32 pixels, fed 64 x 64 (input_size of its row): ValueError: "),
        ("misfit", "int8", "made for 32 x 32 pixels"),
        ("bert", "fp32", "ValueError: too many values to unpack (expected 2)"),
    ],
)
def test_what_can_not_is_a_row_with_its_reason(
    model: str, precision: str, words: str, swept: dict[tuple[str, str], Record]
) -> None:
    cell = only(swept[model, precision])
    assert cell.status == "failed"
    assert words in cell.reason
    assert "\n" not in cell.reason
    assert only(swept["resnet", "fp32"]).status == "ok"


def test_a_row_names_the_log_with_the_traceback(
    study: tuple[Project, Params], swept: dict[tuple[str, str], Record]
) -> None:
    project, _ = study
    for model in ("bert", "misfit"):
        name = only(swept[model, "int8"]).reason.partition("traceback in ")[2]
        assert name == f"data/machines/local/failures/{model}.log"
        assert (project.root / name).read_text().startswith("Traceback (most recent call last):\n")


def test_a_network_that_does_not_repeat_itself_is_not_compared_and_recommended(
    study: tuple[Project, Params], swept: dict[tuple[str, str], Record]
) -> None:
    project, params = study
    for precision in PRECISIONS:
        record = swept["vit_mae", precision]
        assert only(record).status == "audit_failed"
        assert (
            "FP32 does not repeat itself: two passes over the same image agree to a cosine of 0." in only(record).reason
        )
        assert only(record).rounds
        assert record.fidelity is None
        assert record.fidelity_reason == only(record).reason
    found = evidence.gather(project, params)
    for quantity in ("speedup", "latency_median", "cosine"):
        estimate = found.row("local", "vit_mae", "int8", 1, quantity)
        assert estimate.value is None
        assert "does not repeat itself" in estimate.reason
    (advice,) = decision.recommend(found, found.local, ("vit_mae",), params.decision)
    assert advice.chosen is None


def test_what_failed_is_tried_again_and_the_rest_is_kept(
    study: tuple[Project, Params], swept: dict[tuple[str, str], Record]
) -> None:
    project, params = study
    failed = records.failures(project, swept)
    assert {one.model for one in plan.foreseen(project, params, Matrix.of(params))} == {model for model, _ in failed}
    assert len(failed) == 8
