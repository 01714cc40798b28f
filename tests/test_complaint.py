"""A misspelt key is named as it stands in the file, with what was meant, wherever it stands."""

import copy
import re
from typing import Any

import pytest
import tiny

from visionquant.analysis.claims.claim import File
from visionquant.core.errors import StudyError, checked
from visionquant.settings import params

RULE = {"method": "mixed", "dtype": "float16", "cpu_dtype": "bfloat16", "rules": [{"modules": ".", "to": "int8"}]}


def renamed(*path: str | int, to: str) -> Any:
    """The settings with a key of this place under another name."""
    raw = tiny.settings()
    raw["precisions"]["mine"] = copy.deepcopy(RULE)
    raw["evaluation"]["images"] = {"repo_id": "a/b", "revision": "0" * 40}
    row: Any = raw
    for name in path[:-1]:
        row = row[name]
    row[to] = row.pop(path[-1])
    return raw


MISSPELT = [
    (("study",), "studdy", "params.yaml: studdy: unknown key; did you mean study? allowed: study, protocols, "),
    (("study", "models"), "modles", "study.modles: unknown key; did you mean models? allowed: models, precisions"),
    (("study", "device"), "on", "study.on: unknown key; did you mean device?"),
    (("protocols", "tiny", "slot_passes"), "slot_pases", "protocols.tiny.slot_pases: unknown key; did you mean slot_p"),
    (("models", "tiny-vit", "input_size"), "inputsize", "models.tiny-vit.inputsize: unknown key; did you mean input_s"),
    (("precisions", "nf4", "blocksize"), "block_size", "nf4.block_size: unknown key; did you mean blocksize?"),
    (("precisions", "nf4", "method"), "methd", "precisions.nf4.methd: unknown key; did you mean method? allowed: fl"),
    (("precisions", "mine", "rules", 0, "modules"), "module",
     "precisions.mine.rules.0.module: unknown key; did you mean modules? allowed: modules, to"),
    (("training", "networks", "tiny-digits", "layers"), "layer",
     "training.networks.tiny-digits.layer: unknown key; did you mean layers? allowed: family, image_size"),
    (("evaluation", "images", "revision"), "revison",
     "evaluation.images.revison: unknown key; did you mean revision? allowed: repo_id, revision, folder"),
    (("cost", "years"), "yaers", "cost.yaers: unknown key; did you mean years?"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "to", "message"), MISSPELT, ids=[row[1] for row in MISSPELT])
def test_a_misspelt_key_is_named_with_what_was_meant(path: tuple[str | int, ...], to: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        params.parse(renamed(*path, to=to))
    assert message in str(caught.value)
    assert "more" not in str(caught.value)


@pytest.mark.parametrize("name", ["mixed", "float", "bitsandbytes_nf4"])
def test_a_row_that_is_called_as_a_method_keeps_its_name(name: str) -> None:
    raw = tiny.settings()
    raw["precisions"][name] = {**RULE, "threshold": -1.0}
    with pytest.raises(StudyError, match=rf"^params\.yaml: precisions\.{name}\.threshold: .*found -1\.0; correct it"):
        params.parse(raw)


def test_further_faults_are_counted() -> None:
    raw = renamed("study", "models", to="modles")
    raw["cost"]["years"] = "three"
    del raw["study"]["device"]
    with pytest.raises(StudyError, match=re.escape("study.modles: unknown key (and 2 more); did you mean models?")):
        params.parse(raw)


def test_a_row_without_its_method_says_which_there_are() -> None:
    raw = tiny.settings()
    del raw["precisions"]["nf4"]["method"]
    with pytest.raises(
        StudyError, match=r"precisions\.nf4\.method: missing; add it; allowed: float, bitsandbytes_int8, "
    ):
        params.parse(raw)


def test_other_files_are_named_at_every_level_too() -> None:
    section = {"id": "a", "heading": "A", "page": "a", "claims": 1}
    entry = {"id": "one", "section": "a", "says": "", "kind": "behaviour", "tolerance": {"abve": 1.0, "why": ""}}
    with pytest.raises(StudyError, match=r"the file: claims\.0\.tolerance\.abve: unknown key; did you mean above\?"):
        checked(File, {"sections": [section], "claims": [entry]}, "the file")
    with pytest.raises(StudyError, match=r"the file: sections\.0\.headng: unknown key .*did you mean heading\?"):
        checked(File, {"sections": [{**section, "headng": ""}], "claims": [entry]}, "the file")
    entry["formula"] = {"a": 5}
    with pytest.raises(StudyError, match=r"the file: claims\.0\.formula\.a: input should be a valid string, found 5"):
        checked(File, {"sections": [section], "claims": [entry | {"tolerance": None}]}, "the file")
