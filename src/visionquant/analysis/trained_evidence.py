"""What is known of a model's accuracy on trained weights: its own, else that of a model of its family."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from visionquant.analysis import paired
from visionquant.analysis.accuracy import probe_name
from visionquant.analysis.estimators import Estimate, absent
from visionquant.analysis.study import BASELINE, Study
from visionquant.records.outcomes import Probe
from visionquant.settings.precision import Int8Precision, MixedPrecision, Nf4Precision
from visionquant.weights import architectures

SETTLED_BY = "`study.weights: pretrained` with the model hub, and `visionquant probe --model {model}`"
SAME_BYTES = 0.02  # within which two precisions store as much


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


@dataclass(frozen=True)
class PolicyContrast:
    """A policy on a probe's images: ``share`` of a uniform precision's bytes, ``change`` in points against it."""

    model: str
    policy: str
    uniform: str
    share: float
    change: Estimate


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


def against_uniform(study: Study, probe: Probe) -> list[PolicyContrast]:
    """Each policy against each of the study's quantised precisions that stores as much or more; Holm over all."""
    found, choice = probe.precisions, study.params.statistics
    right = {name: np.equal(one.classes, probe.labels) for name, one in found.items()}
    policies = [name for name, one in found.items() if isinstance(one.precision, MixedPrecision)]
    uniform = [name for name in study.params.study.precisions if name in found]
    uniform = [name for name in uniform if isinstance(found[name].precision, Int8Precision | Nf4Precision)]
    size = {name: one.stored_weights for name, one in found.items()}
    pairs = {pair: size[pair[0]] / size[pair[1]] for pair in product(policies, uniform)}
    pairs = {pair: share for pair, share in pairs.items() if share <= 1 + SAME_BYTES}
    contrasts = [paired.contrast(right[other], right[one], choice.accuracy_margin) for one, other in pairs]
    rows = []
    for (pair, share), contrast in zip(pairs.items(), paired.adjusted(contrasts), strict=True):
        assert contrast is not None
        low, high = contrast.interval(choice.confidence)
        why = f"{contrast.only_base} right in {pair[1]} alone, {contrast.only_other} in {pair[0]} alone"
        word = contrast.word(1 - choice.confidence)
        change = Estimate("accuracy_change", contrast.points, low, high, contrast.n, verdict=word, reason=why)
        rows.append(PolicyContrast(probe.model, *pair, share, change))
    return rows
