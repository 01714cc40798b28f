"""The verbs that derive, judge, render and check; none of them measures."""

from typing import Annotated

import typer

from visionquant.cli.common import Models, app, opened, require_none_failed
from visionquant.core.errors import StudyError
from visionquant.settings.params import known


@app.command()
def analyse() -> None:
    """Derive reports/tables/*.csv and reports/metrics.json from the records."""
    from visionquant.analysis import frame_files, study

    frame_files.write(study.gather(*opened()))
    print("reports/tables, reports/metrics.json")


@app.command()
def claims() -> None:
    """Check every published claim: does it follow from what is printed, does a measurement support it?"""
    from visionquant.analysis.claims import ledger

    project, params = opened()
    checked = ledger.write_claims(project, params)
    for name in ("internal", "reproduction"):
        counted = ", ".join(f"{word} {count}" for word, count in checked.counted(name).most_common())
        print(f"{name}: {counted}")
    print(f"{len(checked.claims)} claims in reports/tables/claims.csv")


@app.command()
def recommend(
    device: Annotated[str | None, typer.Option(help='"local", or a machine of data/machines.')] = None,
    model: Models = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per batch.")] = None,
    latency_limit_ms: Annotated[float | None, typer.Option(help="At most so many ms a batch.")] = None,
    memory_limit_mib: Annotated[float | None, typer.Option(help="At most so many MiB.")] = None,
    fidelity_floor: Annotated[float | None, typer.Option(help="Cosine similarity to FP32, at least.")] = None,
) -> None:
    """Say which precision to take for which model, with the records behind each answer; limits from params.yaml."""
    from visionquant.analysis import comparison, decision
    from visionquant.analysis import study as evidence
    from visionquant.report.pages import decision_page

    project, params = opened()
    limits = params.decision.limited(
        batch_size=batch_size,
        latency_limit_ms=latency_limit_ms,
        memory_limit_mib=memory_limit_mib,
        fidelity_floor=fidelity_floor,
    )
    study = evidence.gather(project, params.model_copy(update={"decision": limits}))
    known("study.models", model or [], study.models)
    records_ = comparison.set_named(study, device) if device else study.measured
    answers = decision.recommend(study, records_, tuple(model or study.models), limits)
    print(decision_page.answers(study, records_, answers).plain)
    if all(one.chosen is None for one in answers):
        raise StudyError("recommend", f"no precision for any of {len(answers)} models", "loosen a limit, or measure")


@app.command()
def notebooks(
    name: Annotated[list[str] | None, typer.Argument(help="e.g. 02_latency; all by default.")] = None,
) -> None:
    """Execute the notebooks into reports/notebooks."""
    from visionquant.report import notebooks as runner

    project, params = opened()
    runner.execute(project, params, name)
    print("reports/notebooks")


@app.command()
def report() -> None:
    """Build the pages from the executed notebooks."""
    from visionquant.report import site

    project, params = opened()
    print(site.build(project, params).relative_to(project.root))


@app.command()
def validate() -> None:
    """Judge the supplement's three expected metrics; exit code 1 only where comparable figures differ."""
    from visionquant.analysis import published_validation, study

    verdicts = published_validation.validations(study.gather(*opened()))
    for verdict in verdicts:
        print(verdict.text)
    if any(verdict.verdict == "differs" for verdict in verdicts):
        raise SystemExit(1)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help='"local", or a machine of data/machines.')],
    b: Annotated[str, typer.Argument(help="The set to compare it with.")],
) -> None:
    """Say per cell whether two sets of records agree, with ratio and interval, and how many do."""
    from visionquant.analysis import comparison
    from visionquant.analysis import study as evidence

    project, params = opened()
    study = evidence.gather(project, params)
    found = comparison.compare(study, comparison.set_named(study, a), comparison.set_named(study, b))
    for one in found:
        print(one.text)
    print(comparison.counted(found))


@app.command()
def verify() -> None:
    """Prove that records, settings, code, tables, notebooks and pages belong together; exit code 1 where they don't."""
    from visionquant.bench.pair_fingerprint import measuring_sha256
    from visionquant.report import verify as verifying

    project, params = opened()
    faults = verifying.verify(project, params, measuring_sha256)
    for fault in faults:
        print(fault.text)
    if faults:
        raise StudyError("verify", f"{len(faults)} files do not belong", "run `dvc repro`, or restore them from git")
    print("records, settings, code, tables, notebooks and pages belong together")


@app.command()
def summary() -> None:
    """Say in five lines what was found and where the report is; exit code 3 where pairs failed unexpectedly."""
    from visionquant.analysis import study as evidence
    from visionquant.report.pages import index_page

    project, params = opened()
    print("\n".join(index_page.five_lines(evidence.gather(project, params))))
    require_none_failed(project, params.pairs())
