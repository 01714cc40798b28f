"""What is known of a model's accuracy on trained weights: its own, else that of a model of its family."""

from collections.abc import Iterator
from dataclasses import dataclass

from visionquant.analysis.accuracy import probe_name
from visionquant.analysis.study import BASELINE, Study
from visionquant.weights import architectures

SETTLED_BY = "`study.weights: pretrained` with the model hub, and `visionquant probe --model {model}`"


@dataclass(frozen=True)
class TrainedEvidence:
    """Where the frame has changes of accuracy: ``network`` of ``source``; ``own`` or of another model of the family."""

    source: str
    network: str
    own: bool

    @property
    def text(self) -> str:
        return self.network if self.own else f"{self.network}, of its family"


def find(study: Study, model: str) -> TrainedEvidence | None:
    """The nearest evidence: the model on labelled images of the reader's, under a probe, then its family's."""
    ranked = sorted(_all(study, model), key=lambda found: found[0])
    return ranked[0][1] if ranked else None


def _all(study: Study, model: str) -> Iterator[tuple[int, TrainedEvidence]]:
    family = _family(study, model)
    for run in study.sets:
        for result in run.labelled.judged if run.labelled else ():
            if result.model == model and result.targets and BASELINE in result.precisions:
                yield 0, TrainedEvidence(run.source, model, True)
        for probe in run.probes.values():
            own = probe.model == model
            if BASELINE in probe.precisions and (own or (family and _family(study, probe.model) == family)):
                yield 1 if own else 2, TrainedEvidence(run.source, probe_name(probe), own)


def _family(study: Study, model: str) -> str:
    config = architectures.config(study.project, model) or {}
    return str(config.get("model_type", ""))
