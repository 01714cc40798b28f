"""The published figures, digit by digit: counts and column sums taken from the supplement itself."""

import csv
import shutil
from decimal import Decimal
from pathlib import Path

import made
import pytest

from visionquant.analysis import estimators, published
from visionquant.analysis.claims import claim, formula
from visionquant.analysis.published import Printed
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project

PROJECT = Project(made.ROOT)
FOUND = published.load(PROJECT)
SUMS = {
    "latency.csv": (16, "122.55", "87.02", "506.76", "506.87", "21.26", "3.74"),
    "memory.csv": (10, "7714.12", "3910.97", "2021.94", "2023.14", "483.4", "724.3"),
    "throughput.csv": (6, "629.87", "1136.35", "173.68", "173.06", "545.9", "-420.1"),
}


@pytest.mark.parametrize("name", SUMS)
def test_counts_and_column_sums_are_the_supplements(name: str) -> None:
    with (PROJECT.supplement / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [column for column in rows[0] if column != "model"]
    assert (len(rows), *(str(sum(Decimal(row[column]) for row in rows)) for column in columns)) == SUMS[name]


def test_every_printed_cell_is_read() -> None:
    assert len(FOUND.cells) == 192
    assert len(FOUND.models) == 16
    assert (len(FOUND.statistics), len(FOUND.groups)) == (16, 6)
    assert (len(FOUND.costs), len(FOUND.edge), len(FOUND.ownership)) == (3, 5, 4)


def test_decimals_are_kept_as_printed() -> None:
    assert FOUND.cells["speedup", "vit-huge-patch14-2020", "fp16"].text == "2.50"
    assert (Printed("2.50").half, Printed("632").half) == (0.005, 0.5)
    assert Printed("2.50").rounds_from(2.4950001)
    assert not Printed("2.50").rounds_from(2.4949)


def test_every_cell_of_every_file_is_a_figure_with_what_its_rounding_leaves() -> None:
    figures = FOUND.figures.set_index(["table", "row", "column"])
    files = {path.stem: list(csv.reader(path.read_text().splitlines())) for path in PROJECT.supplement.glob("*.csv")}
    keys = {"statistics": 2, "groups": 3}
    cells = {table: (len(rows) - 1) * (len(rows[0]) - keys.get(table, 1)) for table, rows in files.items()}
    assert figures.groupby("table").size().to_dict() == cells
    assert figures.loc["latency", "vit-huge-patch14-2020", "fp16_speedup"].to_list() == ["2.50", 2.5, 0.005]
    assert figures.loc["groups", "edge-fp16_speedup-max", "value"].to_list() == ["0.96", 0.96, 0.005]
    assert figures.loc["costs", "p3.8xlarge", "fp32_instances"].to_list() == ["8", 8.0, 0.0]  # counted, not rounded
    words = figures[figures["value"].isna()]
    assert set(words["half"]) == {0.0}
    assert ("models", "vit-huge-patch14-2020", "group") in words.index


def test_published_models_are_rows_of_the_settings() -> None:
    from visionquant.settings import params as parameters

    params = parameters.load(PROJECT)
    rows = {name: params.models[name].group for name in params.study.models if name in FOUND.models}
    assert list(rows.items()) == [(row.name, row.group) for row in FOUND.models.values()]


def test_the_throughput_column_is_one_over_the_latency_column_but_for_two_cells() -> None:
    """Said on the throughput page: samples per second are 1000 / milliseconds to the rounding of both, or nearly so."""
    other = set()
    for (quantity, model, precision), figure in FOUND.cells.items():
        if quantity == "throughput":
            ms = FOUND.cells["latency_median", model, precision].value
            assert figure.value == pytest.approx(1000 / ms, rel=0.002)
            if not 1000 / (ms + 0.005) - 0.005 <= figure.value <= 1000 / (ms - 0.005) + 0.005:
                other.add((model, precision))
    assert other == {("deit-base-distilled-384", "int8"), ("deit-base-distilled-384", "nf4")}


def test_a_broken_figure_names_file_and_line(tmp_path: Path) -> None:
    shutil.copytree(PROJECT.supplement, tmp_path / "data" / "supplement")
    path = tmp_path / "data" / "supplement" / "latency.csv"
    path.write_text(path.read_text().replace("9.84", "fast", 1))
    with pytest.raises(StudyError, match=r"latency\.csv line 3: 'fast' is no number"):
        published.load(Project(tmp_path))
    path.write_text(path.read_text().replace("fast", "", 1))
    with pytest.raises(StudyError, match=r"latency\.csv line 3: '' is no number"):
        published.load(Project(tmp_path))
    path.write_text("\n".join(["model,fp32_ms", "a,1", "b"]))
    with pytest.raises(StudyError, match=r"latency\.csv line 3: '' is no number"):
        published.load(Project(tmp_path))
    path.unlink()
    with pytest.raises(StudyError, match=r"latency\.csv: No such file.*restore it from git"):
        published.load(Project(tmp_path))


def test_which_definition_of_std_gives_the_printed_one() -> None:
    """FP16 speedup: the printed 0.56 follows from neither definition; the column gives 0.52 (n) and 0.53 (n-1)."""
    values = list(FOUND.column("speedup", "fp16").values())
    found = estimators.summary(values)
    assert (round(found["std_n"], 2), round(found["std_n-1"], 2)) == (0.52, 0.53)
    printed = next(row.printed for row in FOUND.statistics if (row.subject, row.statistic) == ("fp16_speedup", "std"))
    assert printed.text == "0.56"
    assert estimators.reproducing("std", printed, values) == []


def test_groups_as_listed_and_by_rule_are_not_the_same() -> None:
    assert "dino-vits16-production" in FOUND.group("production")  # 22 million parameters
    assert "dino-vits16-production" not in FOUND.readings("production")["by its rule"]
    assert "dinov2-large-2023" not in FOUND.readings("foundation")["by its rule"]  # exactly 300 million
    assert set(FOUND.readings("foundation")["by its rule"]) < set(FOUND.group("foundation"))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte order mark"])
def test_line_ends_of_an_editor_change_no_figure_no_price_and_no_claim(mark: bytes, tmp_path: Path) -> None:
    edited = Project(tmp_path)
    shutil.copytree(PROJECT.architectures, edited.architectures)
    for path in PROJECT.supplement.iterdir():
        edited.supplement.mkdir(parents=True, exist_ok=True)
        text = mark + path.read_bytes().replace(b"\n", b"\r\n")
        (edited.supplement / path.name).write_bytes(text)
    after = published.load(edited)
    assert after == FOUND
    assert after.figures.equals(FOUND.figures)
    sources = formula.all_names(edited, after, 8.125)
    assert sources.numbers == formula.all_names(PROJECT, FOUND, 8.125).numbers
    assert claim.load_claims(edited, sources) == claim.load_claims(PROJECT, sources)
