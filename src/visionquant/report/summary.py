"""Five lines for the end of a run: machine, cells, what was found, how time was spent, where the report is."""

from visionquant.analysis import provenance, statistics
from visionquant.analysis import study as evidence
from visionquant.analysis.tables.blocks import compared, precision_label
from visionquant.core.paths import Project
from visionquant.settings.params import Params


def five_lines(project: Project, params: Params) -> tuple[str, ...]:
    """The state of this machine's run.

    Raises:
        StudyError: a record is broken, or the records mix machines.
    """
    study = evidence.gather(project, params)
    local = study.local
    counts = provenance.counts(study, local)
    total = sum(counts.values())
    others = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items() if status != "ok")
    speeds = []
    for precision in compared(study):
        values = list(study.values(local, "speedup", precision, study.models).values())
        if values:
            speeds.append(f"{precision_label(precision)} {statistics.summary(values)['median']:.2f}x")
    share = provenance.timed_share(local)
    elapsed = sum(record.elapsed_s for record in local.records.values())
    index = project.reports / "index.html"
    return (
        f"machine   {provenance.describe(local)}",
        f"cells     {counts['ok']} of {total} ok" + (f"; {others}" if others else ""),
        f"speed     median over models at batch size 1, against FP32: {', '.join(speeds) or 'nothing to compare'}",
        f"time      {elapsed / 60:.1f} min measuring"
        + ("" if share is None else f", {100 * share:.0f} % of it inside timed windows"),
        f"report    {index}" if index.is_file() else "report    none yet; run `make report`",
    )
