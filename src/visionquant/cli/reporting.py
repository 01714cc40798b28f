"""The verbs that derive, judge, render and check; none of them measures."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from visionquant.cli.common import Models, Set, require_none_failed, verb
from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.settings.params import Params, known

if TYPE_CHECKING:
    from visionquant.analysis.study import Study


@verb("analyse")
def analyse(study: "Study") -> None:
    """Derive reports/tables/*.csv, results.json and metrics.json from the records."""
    from visionquant.analysis import frame_files

    for path, content in frame_files.contents(study).items():
        files.save(path, content)
    print("reports/tables, reports/results.json, reports/metrics.json")


@verb("analyse")
def claims(study: "Study") -> None:
    """Check every published claim: does it follow from what is printed, does a measurement support it?"""
    from visionquant.analysis.claims import ledger

    checked = ledger.check_claims(study)
    for path, content in ledger.contents(study, checked).items():
        files.save(path, content)
    for name in ("internal", "reproduction"):
        counted = ", ".join(f"{word} {count}" for word, count in checked.counted(name).most_common())
        print(f"{name}: {counted}")
    print(f"{len(checked.claims)} claims in reports/tables/claims.csv")


@verb("analyse")
def recommend(
    study: "Study",
    device: Annotated[str | None, typer.Option(help='"local", or a machine of data/machines.')] = None,
    model: Models = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per batch.")] = None,
    latency_limit_ms: Annotated[float | None, typer.Option(help="At most so many ms a batch.")] = None,
    memory_limit_mib: Annotated[float | None, typer.Option(help="At most so many MiB.")] = None,
    accuracy_loss_limit: Annotated[float | None, typer.Option(help="Points of top-1 that may be lost.")] = None,
    fidelity_floor: Annotated[float | None, typer.Option(help="Cosine similarity to FP32, at least.")] = None,
) -> None:
    """Say which precision to take for which model, with the records behind each answer; limits from params.yaml."""
    from visionquant.analysis import comparison, decision
    from visionquant.report.pages import costs_page

    limits = study.params.decision.limited(
        batch_size=batch_size,
        latency_limit_ms=latency_limit_ms,
        memory_limit_mib=memory_limit_mib,
        accuracy_loss_limit=accuracy_loss_limit,
        fidelity_floor=fidelity_floor,
    )
    study = replace(study, params=study.params.model_copy(update={"decision": limits}))
    known("study.models", model or [], study.models)
    machine_set = comparison.set_named(study, device) if device else study.measured
    answers = decision.recommend(study, machine_set, tuple(model or study.models), limits)
    print(costs_page.recommended(study, machine_set, answers).plain)
    if all(answer.chosen is None for answer in answers):
        raise StudyError("recommend", f"no precision for any of {len(answers)} models", "loosen a limit, or measure")


@verb("read")
def notebooks(
    project: Project,
    params: Params,
    name: Annotated[list[str] | None, typer.Argument(help="e.g. 02_latency; all by default.")] = None,
) -> None:
    """Execute the notebooks into reports/notebooks."""
    from visionquant.report import notebooks as runner

    runner.execute(project, params, name)
    print("reports/notebooks")


@verb("read")
def report(project: Project, params: Params) -> None:
    """Build the pages from the executed notebooks."""
    from visionquant.report import site

    print(site.build_site(project, params).relative_to(project.root))


@verb("read")
def pdf(
    project: Project,
    params: Params,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="reports/supplement.pdf.")] = None,
) -> None:
    """Print the supplement's page as a PDF, by a browser that is installed here."""
    from visionquant.report import pdf as printing

    found = printing.save_pdf(project.reports / "supplement.html", output or project.reports / "supplement.pdf")
    print(project.shown(found))


@verb("read")
def metadata(
    project: Project,
    params: Params,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 where a file differs.")] = False,
) -> None:
    """Write what others cite, find and review: citation, schemas, Croissant, RO-Crate, ARTIFACT.md, codecheck.yml."""
    from visionquant.analysis.study import gather
    from visionquant.report import artifact, croissant, ro_crate
    from visionquant.report import metadata as repository

    study = gather(project, params, local=False)
    made = repository.contents(project) | artifact.contents(study)
    made |= croissant.contents(project) | ro_crate.contents(study)
    differing = repository.differing(made)
    if check and differing:
        named = ", ".join(map(project.shown, differing))
        raise StudyError("metadata", f"not what would be written: {named}", "run `visionquant metadata`")
    for path in differing:
        files.save(path, made[path])
    print(f"{len(differing)} files written" if differing else "all files are as they would be written")


@verb("analyse")
def validate(study: "Study") -> None:
    """Judge the supplement's three expected metrics; exit code 1 only where comparable figures refute one."""
    from visionquant.analysis.claims import ledger

    found = ledger.validation(study)
    print("\n".join(f"{claim.row} [{one.source}]: {one.text}" for claim, one in found))
    if any(one.word == "refuted" for _, one in found):
        raise SystemExit(1)


@verb("analyse")
def compare(
    study: "Study",
    a: Set = None,
    b: Annotated[str | None, typer.Argument(help="The set to compare it with.")] = None,
    by: Annotated[
        Literal["versions"] | None, typer.Option(help="Each set with the next of the same hardware in other versions.")
    ] = None,
) -> None:
    """Say per cell whether two sets of records agree, with ratio and interval, and how many do."""
    from visionquant.analysis import comparison

    if by and not a:
        pairs = [*comparison.by_versions(study)]
        if not pairs:
            print("no two sets of the same hardware have other versions")
    elif a and b and not by:
        pairs = [(comparison.set_named(study, a), comparison.set_named(study, b), [])]
    else:
        raise StudyError("compare", "it takes two sets, or --by versions", "see `visionquant compare --help`")
    for one, other, changed in pairs:
        if changed:
            print(f"{one.label} over {other.label}: {'; '.join(changed)}")
        cells = comparison.compare(study, one, other)
        print("\n".join([*(cell.text for cell in cells), comparison.counted(cells)]))


@verb("read")
def verify(
    project: Project,
    params: Params,
    evidence: Annotated[bool, typer.Option("--evidence", help="Only of data/machines: a contribution.")] = False,
) -> None:
    """Prove that records, settings, code, tables, notebooks and pages belong together; exit code 1 where they don't."""
    if evidence:
        return _verify_evidence(project, params)
    from visionquant.bench.pair_fingerprint import measuring_sha256
    from visionquant.report import verify as verifying

    if faults := verifying.verify(project, params, measuring_sha256):
        print("\n".join(fault.text for fault in faults))
        raise StudyError("verify", f"{len(faults)} files do not belong", "run `dvc repro`, or restore them from git")
    print("records, settings, code, tables, notebooks and pages belong together")
    return None


def _verify_evidence(project: Project, params: Params) -> None:
    """A line a named machine with its gates; a StudyError where a file is altered, foreign, missing or broken."""
    from visionquant.analysis import platforms
    from visionquant.analysis.study import gather

    for one in platforms.summaries(gather(project, params, local=False)):
        print(f"{one.run.name}: {one.kind}; {one.ok} of {one.cells} cells. {one.placebo.text} {one.halves.text}")


@verb("analyse")
def summary(study: "Study") -> None:
    """Say in five lines what was found and where the report is; exit code 3 where pairs failed unexpectedly."""
    from visionquant.report.pages import answer_page

    print("\n".join(answer_page.five_lines(study)))
    require_none_failed(study.project, study.params.pairs())
