"""The answer is the fastest within the limits, with those that can't be told apart, or a reason."""

from dataclasses import replace
from pathlib import Path

import made
import pytest

from visionquant.analysis import decision, trained_evidence
from visionquant.analysis.decision import Advice
from visionquant.analysis.study import Study, gather
from visionquant.settings import params
from visionquant.settings.sections import DecisionLimits

MODEL = "vit-base-224-production"
FREE = DecisionLimits(batch_size=1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return made.study(tmp_path_factory.mktemp("d"), {"fp32": 1.0, "fp16": 0.5, "int8": 0.505, "nf4": 3.0})


def ask(study: Study, **limits: float) -> Advice:
    wanted = FREE.model_copy(update=limits)
    return decision.recommend(study, study.measured, (MODEL,), wanted)[0]


def test_the_fastest_is_taken_and_what_cannot_be_told_apart_is_named(study: Study) -> None:
    found = ask(study)
    assert found.chosen is not None
    assert found.chosen.precision == "fp16"
    assert found.why == "the fastest within the limits; int8 can't be told apart from it by the intervals"
    assert found.chosen.record == f"data/machines/local/latency/{MODEL}-fp16.json"


def test_a_limit_excludes_and_says_by_how_much(study: Study) -> None:
    found = ask(study, memory_limit_mib=60.0)
    assert found.chosen is not None
    assert found.chosen.precision == "nf4"
    assert found.why == "the only one within the limits"
    misses = {one.precision: one.misses for one in found.candidates}
    assert misses["int8"] == ("84.1 MiB is over 60",)


def test_nothing_within_the_limits_is_a_reason_for_each(study: Study) -> None:
    found = ask(study, latency_limit_ms=1.0)
    assert found.chosen is None
    assert "fp32: 100" in found.why
    assert ask(study, fidelity_floor=0.999).chosen is None


def test_the_front_holds_what_nothing_beats(study: Study) -> None:
    front = {one.precision: one.front for one in ask(study).candidates}
    assert front == {"fp32": False, "fp16": True, "int8": True, "nf4": True}  # all have the same fidelity


def test_without_records_the_reason_is_that_nothing_was_measured(tmp_path: Path) -> None:
    project = made.project(tmp_path)
    empty = gather(project, params.load(project))
    found = decision.recommend(empty, empty.measured, (MODEL,), FREE)[0]
    assert found.chosen is None
    assert found.why == "nothing to choose from: not measured"


def probed(study: Study, model: str, **lost: int) -> Study:
    """The study with a probe of ``model`` over 10,000 images, of which FP32 gets 9,000 right, a precision fewer."""
    first, *others = study.sets
    return replace(study, sets=(replace(first, probes={model: made.probe(study.params, model, lost)}), *others))


def test_on_the_agreement_of_seeded_weights_nothing_is_recommended(study: Study) -> None:
    found = ask(study, accuracy_loss_limit=1.0)
    assert found.chosen is None
    assert found.why == (
        "only the agreement of seeded weights is known; `study.weights: pretrained` with the model hub, and "
        f"`visionquant probe --model {MODEL}` settle it"
    )
    assert ask(study, fidelity_floor=0.1).chosen is None
    assert ask(study).chosen is not None  # who asks for no accuracy gets the fastest


def test_trained_weights_of_the_model_decide(study: Study) -> None:
    """Forty images in ten thousand are within a point, a hundred and twenty are not."""
    trained = probed(study, MODEL, fp16=120, int8=40)
    found = ask(trained, accuracy_loss_limit=1.0, fidelity_floor=0.9999)
    assert found.evidence == f"{MODEL}/fashion-mnist"
    assert found.chosen is not None
    assert (found.chosen.precision, found.chosen.accuracy.value) == ("int8", -0.4)
    misses = {one.precision: one.misses for one in found.candidates}
    assert misses["fp16"] == ("may lose 1.43 points, over 1",)
    assert misses["nf4"] == (f"not evaluated on {MODEL}/fashion-mnist",)
    assert misses["fp32"] == ()


def test_trained_weights_of_its_family_stand_in(study: Study) -> None:
    family = probed(study, "vit-large-patch16-2020", fp16=0, int8=0, nf4=0)
    found = trained_evidence.find(family, MODEL)
    assert found is not None
    assert found.text == "vit-large-patch16-2020/fashion-mnist, of its family"
    assert ask(family, accuracy_loss_limit=1.0).chosen is not None
    assert trained_evidence.find(family, "dinov2-base-2023") is None
    both = probed(family, MODEL, fp16=0)
    assert trained_evidence.find(both, MODEL) == trained_evidence.TrainedEvidence(
        "local", f"{MODEL}/fashion-mnist", True
    )
