"""Accuracies that others published: every row with its source, drops from the file alone, one line on a broken row."""

import csv
from collections import Counter
from decimal import Decimal
from pathlib import Path

import made
import pytest

from visionquant.analysis import published_accuracy
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project

PATH = made.ROOT / published_accuracy.FILE
FOUND = published_accuracy.load(Project(made.ROOT))
# Rows of each source with the sum of their quantised accuracies, added up apart from the file.
SUMS = {
    "PTQ4ViT README": (28, "2160.90"), "FQ-ViT": (15, "1049.23"), "RepQ-ViT": (10, "730.58"), "QwT": (24, "1762.7"),
    "AdaLog README": (18, "1336.16"), "APHQ-ViT": (10, "721.71"), "NNCF ptq_reference_data.yaml": (11, "841.81"),
}  # fmt: skip


def test_every_row_of_the_file_has_a_source_and_was_read_there() -> None:
    with PATH.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(FOUND) == len(rows) > 100
    assert all(row["source"] for row in rows)
    assert {row["checked"] for row in rows} == {"read in the source"}
    recalled = ("ERQ", "I&S-ViT")  # of which no source was seen
    assert not [row for row in rows if row["stack"] in recalled or row["source"] in recalled]


def test_rows_and_sums_are_those_of_the_sources() -> None:
    counts = Counter(row.source for row in FOUND)
    for source, (count, total) in SUMS.items():
        assert counts[source] == count, source
        assert sum(row.quantised for row in FOUND if row.source == source) == Decimal(total), source


def test_a_drop_is_the_difference_of_what_is_printed_with_the_fewer_decimals() -> None:
    for row in FOUND:
        assert abs(row.drop - (row.baseline - row.quantised)) < Decimal("0.006"), row
    found = {(row.model, row.stack, row.bits): str(row.drop) for row in FOUND}
    assert found["ViT-B/384", "BasePTQ", "W6A6"] == "39.11"
    assert found["ViT-B", "AdaLog", "W6A6"] == "-0.26"  # above the baseline
    assert found["DeiT-T", "RepQ + QwT", "W4A4"] == "10.8"
    assert found["timm ViT-B", "ModelOpt, NVFP4", "W4"] == "0.55"  # of 85.11 and 84.558
    assert found["torchvision ViT", "AI Hub", "W8A16"] == "0.0"


BROKEN = {
    "number": ("75.99,73.61", "75.99,much", r"line 2: quantised: input should be a valid decimal.*'much'"),
    "percent": ("75.99,73.61", "75.99,736.1", r"line 2: quantised: input should be less than or equal to 100"),
    "source": ("PTQ4ViT README", "", r"line 2: source: missing; add it"),
    "mark": ("read in the source", "not checked", r"line 2: checked: input should be 'read in the source'"),
    "group": ("research,", "resaerch,", r"line 2: group: input should be 'research' or 'deployment'"),
    "column": ("activation_bits", "activations", r"line 2: activations: unknown key; did you mean activation_bits\?"),
    "twice": ("6,6,BasePTQ", "8,8,BasePTQ", r"line 3: ViT-S/32, ImageNet-1k top-1, W8A8, .* stands there twice"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_row_is_named_in_one_line(fault: str, tmp_path: Path) -> None:
    old, new, message = BROKEN[fault]
    text = PATH.read_text()
    assert old in text
    copy = tmp_path / published_accuracy.FILE
    copy.parent.mkdir(parents=True)
    copy.write_text(text.replace(old, new, 1))
    with pytest.raises(StudyError, match=rf"^data/published/accuracy\.csv {message}") as caught:
        published_accuracy.load(Project(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"data/published/accuracy\.csv: No such file.*restore it from git"):
        published_accuracy.load(Project(tmp_path))
