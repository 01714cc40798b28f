"""What is committed belongs together: tables and pages are those that the recorded sets give, and nothing else."""

import subprocess

import pytest
import tiny

from visionquant.analysis import study as evidence
from visionquant.bench.pair_fingerprint import measuring_sha256
from visionquant.core.paths import Project
from visionquant.records import archive
from visionquant.report.pages import index_page
from visionquant.report.verify import verify
from visionquant.settings import params as parameters
from visionquant.weights import architectures

RECORDED = [folder.name for folder in archive.folders(Project(tiny.ROOT))]
PARTIAL = {"cpu-2-core-amd-epyc-avx2"}  # policies and graphs of ONNX Runtime on two models


def records_of(platform: str) -> archive.Records:
    return next(machine.records for machine in archive.recorded(Project(tiny.ROOT)) if machine.name == platform)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The checkout as a clone by a git that shall write CRLF has it: committed evidence, nothing measured here."""
    root = tmp_path_factory.mktemp("clean") / "clone"
    subprocess.run(["git", "clone", "-q", "-c", "core.autocrlf=true", str(tiny.ROOT), str(root)], check=True)
    return Project(root)


def test_a_clone_has_the_committed_bytes_whatever_git_is_told_of_line_ends(clean: Project) -> None:
    """So hashes of manifests, dvc.lock, notebooks and code agree; sets are read through theirs."""
    listed = subprocess.run(["git", "-C", clean.root, "ls-files", "--eol"], capture_output=True, text=True, check=True)
    ends = {line.split()[1] for line in listed.stdout.splitlines()}
    assert ends <= {"w/lf", "w/none", "w/-text"}
    assert [machine.name for machine in archive.recorded(clean)] == RECORDED


@pytest.mark.parametrize("platform", RECORDED)
def test_a_recorded_set_is_a_whole_study_by_one_version_of_the_code(platform: str) -> None:
    project = Project(tiny.ROOT)
    params = parameters.load(project)
    found = records_of(platform)
    codes = {(pair[1], record.code.measuring_sha256) for pair, record in found.items()}
    assert len(codes) == len({precision for precision, _ in codes})  # each has an engine of its own
    for (model, precision), record in found.items():
        assert record.settings.model == params.models[model]
        assert record.settings.precision == params.precisions[precision]
    pairs = {pair for pair in params.pairs() if params.models[pair[0]].package is None}  # of the supplement
    if platform in PARTIAL:
        assert not set(found) >= pairs  # else it is whole, and no longer listed there
        return
    assert set(found) >= pairs
    for pair in pairs:
        assert {cell.batch_size for cell in found[pair].cells} == set(params.study.batch_sizes)


def test_samples_of_a_machine_are_few_enough_to_be_committed() -> None:
    for folder in archive.folders(Project(tiny.ROOT)):
        assert sum(path.stat().st_size for path in folder.glob("samples/*")) <= archive.SAMPLES_BYTES


@pytest.mark.parametrize("platform", RECORDED)
def test_every_recorded_precision_is_what_it_says(platform: str) -> None:
    """Stored bytes are the arithmetic's within 1 %, layers were quantised, and outputs are FP32's far above chance."""
    project = Project(tiny.ROOT)
    floors = {"fp32": 0.999999, "fp16": 0.99, "int8": 0.99, "nf4": 0.9}
    for (model, precision), record in records_of(platform).items():
        facts = architectures.facts(project, model)
        if facts is None or precision not in floors:
            continue
        assert record.size is not None
        assert record.size.stored_weights == pytest.approx(facts.model_bytes[precision], rel=0.01)
        assert record.conversion is not None
        assert (record.conversion.quantized_share > 0.1) is (precision in ("int8", "nf4"))
        assert record.fidelity is not None
        assert record.fidelity.cosine is not None
        assert record.fidelity.cosine > floors[precision], (model, precision)


def test_committed_evidence_tables_notebooks_and_pages_belong_together(clean: Project) -> None:
    assert [one.text for one in verify(clean, parameters.load(clean), measuring_sha256)] == []


def test_the_readmes_answer_is_the_recorded_sets(clean: Project) -> None:
    study = evidence.gather(clean, parameters.load(clean))
    readme = (tiny.ROOT / "README.md").read_text()
    block = readme.split("<!-- answers -->")[1].split("<!-- /answers -->")[0].strip()
    table = index_page.answers(study, study.measured)
    assert block == f"{table.markdown.strip()}\n\n{table.source}".strip()
