"""What a reviewer of an artifact can check, with commands, times and expected values, and a manifest for CODECHECK.

Every value comes from the evidence of the named machines. The expected range of a speedup is the prediction interval:
it holds one more run of as many rounds.
"""

import textwrap
from pathlib import Path

import yaml

from visionquant.analysis import provenance
from visionquant.analysis.claims import ledger
from visionquant.analysis.frame import CELL
from visionquant.analysis.study import MachineSet, Study
from visionquant.core.quantities import MIB
from visionquant.records import archive
from visionquant.report.items import fixed, joined

SPECIFICATION = "https://codecheck.org.uk/spec/config/1.0/"
MANIFEST = {
    "reports/tables/cells.csv": "every figure with its unit, interval, rounds and verdict",
    "reports/tables/missing.csv": "every figure that is missing, and why",
    "reports/tables/claims.csv": "every claim of the published supplement with its verdicts",
    "reports/tables/headline.csv": "latency, speedup, throughput, memory and cosine at batch size 1",
    "reports/metrics.json": "these by model, with cells by status",
    "reports/index.html": "the report's first page",
}
DECIDED = ("FASTER", "SLOWER", "SAME")


def contents(study: Study) -> dict[Path, str]:
    """ARTIFACT.md and codecheck.yml, of a study of named machines."""
    root = study.project.root
    return {root / "ARTIFACT.md": _artifact(study, study.measured), root / "codecheck.yml": _manifest()}


def _manifest() -> str:
    entries = [{"file": name, "comment": comment} for name, comment in MANIFEST.items()]
    text = yaml.safe_dump({"version": SPECIFICATION, "manifest": entries}, sort_keys=False, width=120)
    return f"---\n# The outputs to check. No check was made yet: no codechecker, no report, no certificate.\n{text}"


def _artifact(study: Study, run: MachineSet) -> str:
    title = run.environment.title if run.environment else "nothing"
    confidence = 100 * study.params.statistics.confidence
    headings = ("model", "precision", "claim", "expected", "range of one more run", "rounds", "minutes")
    lines = [
        "# Artifact",
        "",
        _wrapped(
            "What can be checked, by which command, in which time, and what should come out. `visionquant metadata` "
            "makes it from recorded runs; what was not recorded is said to be so."
        ),
        "",
        _wrapped(
            f"Measured on: {title} (`data/machines/{run.name}`); {run.weights} weights. On seeded weights INT8's path "
            "for outliers is not that of trained ones; other speeds don't depend on the values of weights."
        ),
        "",
        "## What it takes",
        "",
        *_table(("what", "how much", "recorded by"), _needs(study, run)),
        "",
        "## Without measuring",
        "",
        *_table(("claim", "command", "expected"), _checks(study)),
        "",
        "## By measuring",
        "",
        _wrapped(
            "Speedup over FP32 at batch size 1, of each model and precision with a verdict. One more run of as many "
            f"rounds on such a machine lies in the range with {confidence:g} % confidence; on another machine it need "
            "not. Minutes are of all rounds of the model, its other precisions included. `compare` prints the ratio of "
            "both runs with its interval."
        ),
        "",
        "```sh",
        "visionquant sweep --model MODEL --precision PRECISION --results /tmp/rerun",
        f"visionquant compare {run.name} local --results /tmp/rerun",
        "```",
        "",
        *_table(headings, _rows(study, run)),
    ]
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _needs(study: Study, run: MachineSet) -> list[tuple[object, ...]]:
    peaks = study.cells[(study.cells.source == run.source) & (study.cells.quantity == "memory_host_peak")]
    rows: list[tuple[object, ...]] = [("the whole measurement", f"{run.spent_s / 60:.0f} minutes", "its records")]
    if len(peaks):
        most = max(peaks.to_dict("records"), key=lambda row: row["value"])
        cell = f"{most['model']} {most['precision']}, batch size {most['batch_size']}"
        rows.append(("memory of a process, at most", f"{most['value']:.0f} MiB", cell))
    used = sum(path.stat().st_size for path in archive.evidence_files(study.project) if run.name in path.parts)
    rows += [
        ("disk for the evidence", f"{used / MIB:.1f} MiB", f"`data/machines/{run.name}`"),
        ("disk for packages and models", "not recorded", ""),
        ("time of the installation", "not recorded", ""),
    ]
    return rows


def _checks(study: Study) -> list[tuple[object, ...]]:
    checked = ledger.check_claims(study)
    internal = joined(f"{word} {count}" for word, count in sorted(checked.counted("internal").items()))
    found = joined(f"{word} {count}" for word, count in sorted(checked.counted("reproduction").items()))
    counts = provenance.counts(study, study.measured)
    return [
        ("the code does what its tests say", "`make test`", "no failure"),
        ("evidence is as it was recorded", "`visionquant verify --evidence`", "a line a machine, no fault"),
        ("tables and pages follow from it", "`visionquant verify`", "records, ... and pages belong together"),
        ("cells measured", "`visionquant analyse`", f"{counts['ok']} of {sum(counts.values())} in its metrics"),
        ("published claims against each other", "`visionquant claims`", f"internal: {internal}"),
        ("published claims against the records", "`visionquant claims`", f"reproduction: {found}"),
        *_accuracy(study),
    ]


def _accuracy(study: Study) -> list[tuple[object, ...]]:
    """Changes of accuracy on trained weights, each with its interval: the predictions are recorded."""
    networks = study.cells.model.str.partition("/")[0]  # MODEL/TASK
    rows = study.cells[(study.cells.quantity == "accuracy_change") & networks.isin(study.models)]
    return [
        (
            f"{row['model']} {row['precision']}: top-1 against FP32, trained weights",
            "`visionquant analyse`",
            f"{fixed(row['value'], 2)} points ({fixed(row['low'], 2)} to {fixed(row['high'], 2)}), {row['verdict']}",
        )
        for row in rows.to_dict("records")
    ]


def _rows(study: Study, run: MachineSet) -> list[tuple[object, ...]]:
    cells = study.cells[(study.cells.source == run.source) & (study.cells.batch_size == 1)]
    asked = cells.precision.isin(study.compared)
    speedups = cells[asked & (cells.quantity == "speedup") & cells.verdict.isin(DECIDED)]
    ahead = cells[asked & (cells.quantity == "speedup_prediction")].set_index(CELL)
    rows: list[tuple[object, ...]] = []
    for row in speedups.to_dict("records"):
        key = tuple(row[name] for name in CELL)
        span = f"{fixed(ahead.low[key], 2)} to {fixed(ahead.high[key], 2)}" if key in ahead.index else "none"
        cell = run.state(row["model"], row["precision"], 1).measured[1]
        minutes = sum(each.spent_s for each in cell.rounds) / 60
        known = (row["model"], row["precision"], row["verdict"], fixed(row["value"], 2))
        rows.append((*known, span, row["n"], fixed(minutes, 1)))
    return rows


def _table(headings: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    return ["| " + " | ".join(map(str, row)) + " |" for row in (headings, ["---"] * len(headings), *rows)]
