"""What is known of a model's accuracy on trained weights: its own, else that of a model of its family."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from visionquant.analysis.accuracy import probe_name
from visionquant.analysis.estimators import Estimate, absent
from visionquant.analysis.study import BASELINE, Study
from visionquant.records.outcomes import Probe
from visionquant.weights import architectures

SETTLED_BY = "`study.weights: pretrained` with the model hub, and `visionquant probe --model {model}`"


@dataclass(frozen=True)
class TrainedEvidence:
    """Where the frame has changes of accuracy: ``network`` of ``source``; ``own`` or of another model of the family."""

    source: str
    network: str
    own: bool = True

    @property
    def text(self) -> str:
        return self.network if self.own else f"{self.network}, of its family"

    def change(self, study: Study, precision: str) -> Estimate:
        """The change of accuracy against FP32, in points."""
        if precision == BASELINE:
            return absent("accuracy_change", "FP32 itself")
        return study.row(self.source, self.network, precision, 0, "accuracy_change")


def probes(study: Study) -> list[tuple[TrainedEvidence, Probe]]:
    """Every probe and where its figures are, those of the measured set first."""
    found = ((run.source, probe) for run in study.sets for probe in run.probes.values())
    return [(TrainedEvidence(source, probe_name(probe)), probe) for source, probe in found]


def find(study: Study, model: str) -> TrainedEvidence | None:
    """The nearest evidence: the model on labelled images of the reader's, under a probe, then its family's."""
    ranked = sorted(_all(study, model), key=lambda found: found[0])
    return ranked[0][1] if ranked else None


def _all(study: Study, model: str) -> Iterator[tuple[int, TrainedEvidence]]:
    family = _family(study, model)
    for run in study.sets:
        for result in run.labelled.judged if run.labelled else ():
            if result.model == model and result.targets and BASELINE in result.precisions:
                yield 0, TrainedEvidence(run.source, model)
    for evidence, probe in probes(study):
        if BASELINE in probe.precisions and probe.model == model:
            yield 1, evidence
        elif BASELINE in probe.precisions and family and _family(study, probe.model) == family:
            yield 2, replace(evidence, own=False)


def _family(study: Study, model: str) -> str:
    config = architectures.config(study.project, model) or {}
    return str(config.get("model_type", ""))
