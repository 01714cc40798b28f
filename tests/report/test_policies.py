"""Policies against uniform precisions, and layers side by side: what is shown, and what is said where nothing is."""

from dataclasses import replace
from typing import Any

import made
import pytest

from visionquant.analysis.study import Study, gather
from visionquant.records.outcomes import Recipe
from visionquant.report.columns import recipe_tables
from visionquant.report.pages import probe_page, sensitivity_page
from visionquant.settings import params

MODEL = "dinov2-small-packaged"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Nothing was measured."""
    project = made.project(tmp_path_factory.mktemp("study"))
    return gather(project, params.load(project))


def test_policies_meet_the_precisions_that_store_as_much(study: Study) -> None:
    lost = {"int8": 300, "nf4": 900, "mixed-attention": 310, "mixed-sensitive": 200}
    probe = made.probe(study.params, MODEL, lost)
    sizes = {"nf4": 2**19, "mixed-sensitive": round(0.8 * 2**20)}
    answers = {
        name: one.model_copy(update={"stored_weights": sizes.get(name, one.stored_weights)})
        for name, one in probe.precisions.items()
    }
    first, *others = study.sets
    mine = replace(first, probes={MODEL: probe.model_copy(update={"precisions": answers})})
    table = probe_page.policies(replace(study, sets=(mine, *others)))
    rows = [(row[1].text, row[2].text, row[3].text, row[4].text, row[4].word) for row in table.rows]
    assert sorted(rows) == [
        ("mixed-attention", "INT8", "100.0", "-0.10", "SAME"),
        ("mixed-sensitive", "INT8", "80.0", "1.00", "HIGHER"),
    ]
    assert "mixed-attention against INT8 at 100.0% of its bytes: SAME, -0.10 points (" in table.caption
    assert "10000 test images" in table.source


def test_where_no_policy_was_evaluated_the_table_says_what_to_do(study: Study) -> None:
    table = probe_page.policies(study)
    assert table.rows == ()
    assert "visionquant allocate" in table.source


def sensitivity(layers: int = 24) -> Recipe:
    """Trained layers lose more the earlier they are, seeded ones all the same."""
    rows: list[dict[str, Any]] = []
    for weights in ("packaged", "seeded"):
        for precision in ("nf4", "int8"):
            shared: dict[str, Any] = {"model": MODEL, "weights": weights, "precision": precision, "task": "t"}
            shared |= {"pixels": 28, "images": 8}
            for number in range(layers):
                noise = {"sqnr_db": 20.0 + number if weights == "packaged" else 50.0}
                noise |= {"left_out_sqnr_db": 9.0, "kl_nats": 0.1}
                outliers = layers - number if weights == "packaged" else 0
                rows.append(shared | {"layer": f"layers.{number}"} | noise | {"outlier_channels": outliers})
            whole = dict.fromkeys(("left_out_sqnr_db", "outlier_channels"))
            rows.append(shared | {"layer": "all layers", "sqnr_db": 9.0, "kl_nats": 0.2} | whole)
    return Recipe(
        name="sensitivity", command="visionquant recipe sensitivity", weights="pretrained", environment=made.CPU,
        elapsed_s=1.0, rows=tuple(rows),
    )  # fmt: skip


def test_layers_stand_side_by_side_and_the_dearest_come_first(study: Study) -> None:
    first, *others = study.sets
    measured = replace(study, sets=(replace(first, recipes={"sensitivity": sensitivity()}), *others))
    figure = sensitivity_page.by_layer(measured)
    for word in ("NF4: signal to noise, dB", "INT8: signal to noise, dB", "outlier channels", "seeded weights"):
        assert word in figure.svg
    assert "8 training images of t at 28 pixels" in figure.source
    (table,) = (one for one in recipe_tables(measured, sensitivity_page.WORST_LAYERS) if "this machine" in one.title)
    rows = [[box.text for box in row] for row in table.rows]
    assert len(rows) == 2 * sensitivity_page.WORST
    assert rows[0][:4] == ["NF4", "layers.0", "20.0", "50.0"]


def test_without_evidence_the_figure_says_how_to_get_it(study: Study) -> None:
    bare = replace(study, sets=tuple(replace(run, recipes={}) for run in study.sets))
    figure = sensitivity_page.by_layer(bare)
    assert "nothing to show" in figure.svg
    assert figure.source == "Not run: `visionquant recipe sensitivity`."
    (table,) = recipe_tables(bare, sensitivity_page.WORST_LAYERS)
    assert table.rows == ()
