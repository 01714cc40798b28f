"""Activation ranges against independent computations, what they do to a network, and the recipe that compares them."""

from pathlib import Path
from typing import get_args

import made
import numpy as np
import pytest
import tiny
import torch
from torch import nn

from visionquant.accuracy import static_int8, training
from visionquant.analysis import study as evidence
from visionquant.core import machine
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.recipes import calibration as contest
from visionquant.records import archive, outcomes
from visionquant.records.outcomes import Recipe
from visionquant.report.columns import recipe_tables as tables
from visionquant.report.pages import keeping_page
from visionquant.settings.params import Params
from visionquant.settings.sections import NetworkSpec

NETWORK = "tiny-digits"
STATISTICS = get_args(static_int8.Statistic)


def one_layer(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 4)).eval()


def steps(net: nn.Module) -> tuple[float, float, float]:
    """Step, lowest and highest value of the first quantised layer's inputs."""
    layer = next(module for module in net.modules() if isinstance(module, static_int8.Int8Linear))
    scale, zero = float(layer.rounding.scale), float(layer.rounding.zero_point)
    return scale, -zero * scale, (255 - zero) * scale


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, torch.Tensor]:
    spec = NetworkSpec.model_validate(tiny.settings()["training"]["networks"][NETWORK] | {"family": "beit"})
    return training.build_network(spec, seed=0).eval(), training.load_digits(16).images


def test_min_max_is_the_range_of_the_values_and_of_zero() -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(1.0, 2.0, (500, 8)).astype(np.float32))
    scale, low, high = steps(static_int8.calibrated(one_layer(), values.split(100), "min-max"))
    assert scale == pytest.approx((float(values.max()) - float(values.min())) / 255, rel=1e-5)
    assert (low, high) == pytest.approx((float(values.min()), float(values.max())), abs=scale)
    above = steps(static_int8.calibrated(one_layer(), [values.abs() + 3], "min-max"))
    assert above[1] == 0.0


@pytest.mark.parametrize("percentile", [99.0, 99.9])
def test_the_percentile_is_that_of_the_values(percentile: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_int8, "PERCENTILE", percentile)
    values = np.random.default_rng(1).laplace(0.5, 1.0, (20_000, 8)).astype(np.float32)
    scale, low, high = steps(static_int8.calibrated(one_layer(), torch.from_numpy(values).split(4000), "percentile"))
    expected = np.percentile(values, [(100 - percentile) / 2, (100 + percentile) / 2])
    assert expected[1] < 0.8 * values.max()
    assert (low, high) == pytest.approx(tuple(expected), abs=scale + 2 * float(np.ptp(values)) / 2048)


@pytest.mark.parametrize("draw", ["standard_normal", "laplace", "standard_t"])
def test_mse_is_close_to_the_best_of_all_ranges(draw: str) -> None:
    rng = np.random.default_rng(2)
    raw = rng.standard_t(3, (20_000, 8)) if draw == "standard_t" else getattr(rng, draw)(size=(20_000, 8))
    values = torch.from_numpy(raw.astype(np.float32))

    def error(low: float, high: float) -> float:
        scale = (high - low) / 255
        rounded = torch.fake_quantize_per_tensor_affine(values, scale, round(-low / scale), 0, 255)
        return float(((rounded - values) ** 2).mean())

    ends, shares = (float(values.min()), float(values.max())), np.linspace(0.3, 1, 15)
    best = min(error(a * ends[0], b * ends[1]) for a in shares for b in shares)
    found = error(*steps(static_int8.calibrated(one_layer(), [values], "mse"))[1:])
    assert best < 0.9 * error(*ends)
    assert found < 1.1 * best


def test_more_images_never_narrow_min_max(small: tuple[nn.Module, torch.Tensor]) -> None:
    net, images = small
    seen = static_int8.observers(net, "min-max")
    before = dict.fromkeys(seen, (np.inf, -np.inf))
    for part in images[:32].split([1, 1, 2, 4, 8, 16]):
        static_int8.observe(net, [part], seen)
        after = {name: (float(one.min_val), float(one.max_val)) for name, one in seen.items()}
        assert all(after[name][0] <= before[name][0] and after[name][1] >= before[name][1] for name in seen)
        before = after
    at_once = static_int8.observers(net, "min-max")
    static_int8.observe(net, [images[:32]], at_once)
    assert {name: (float(one.min_val), float(one.max_val)) for name, one in at_once.items()} == {
        name: pytest.approx(ends, rel=1e-4) for name, ends in before.items()
    }


@pytest.mark.parametrize("statistic", STATISTICS)
def test_static_int8_is_close_to_fp32_and_leaves_the_network_alone(
    small: tuple[nn.Module, torch.Tensor], statistic: static_int8.Statistic
) -> None:
    net, images = small
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    quantised = static_int8.calibrated(net, images[:64].split(32), statistic)
    linears = sum(type(module) is nn.Linear for module in net.modules())
    assert static_int8.prove_int8(quantised) == linears > 5
    with torch.inference_mode():
        base, found, dynamic = (one(images[64:96]).logits for one in (net, quantised, static_int8.quantise(net, None)))
    assert 0 < float(((found - base) ** 2).sum() / (base**2).sum()) < 0.01
    assert 0 < float(((dynamic - base) ** 2).sum() / (base**2).sum()) < 0.01
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_a_layer_gives_what_integers_give() -> None:
    torch.manual_seed(0)
    net, values = one_layer(32), torch.randn(50, 32)
    layer = static_int8.calibrated(net, [values], "min-max")[0]
    zero = int(layer.rounding.zero_point)
    codes = (torch.round(values / layer.rounding.scale) + zero).clamp(0, 255).to(torch.int64) - zero
    products = codes @ layer.codes.to(torch.int64).T
    expected = products * float(layer.rounding.scale) * layer.scale.T + net[0].bias
    with torch.inference_mode():
        assert torch.allclose(layer(values), expected, atol=1e-5)
    assert set(layer.codes.int().abs().amax(1).tolist()) <= {127, 128}
    assert torch.allclose(layer.codes * layer.scale, net[0].weight, atol=float(layer.scale.max()) / 2 + 1e-6)


def test_dynamic_ranges_are_those_of_each_batch() -> None:
    net = static_int8.quantise(one_layer(), None)
    torch.manual_seed(0)
    small_, large = torch.randn(20, 8), 100 * torch.randn(20, 8)
    for batch in (small_, large, small_):
        net(batch)
        assert steps(net)[0] == pytest.approx(float(batch.max() - batch.min()) / 255, rel=1e-5)


def test_nothing_quantised_nothing_seen_or_nothing_finite_is_one_line() -> None:
    with pytest.raises(StudyError, match="0 Linear layers in INT8 and 1 not"):
        static_int8.prove_int8(one_layer())
    mixed = nn.Sequential(static_int8.quantise(one_layer(), None), nn.Linear(4, 2))
    with pytest.raises(StudyError, match="1 Linear layers in INT8 and 1 not"):
        static_int8.prove_int8(mixed)
    disabled = static_int8.quantise(one_layer(), None)
    disabled[0].rounding.disable_fake_quant()
    with pytest.raises(StudyError, match="0 Linear layers in INT8 and 1 not"):
        static_int8.prove_int8(disabled)
    with pytest.raises(StudyError, match="without a Linear layer"):
        static_int8.calibrated(nn.Sequential(nn.Conv2d(3, 4, 3)), [torch.zeros(1, 3, 8, 8)], "mse")
    with pytest.raises(StudyError, match="no image in the batches"):
        static_int8.calibrated(one_layer(), iter(()), "mse")
    with pytest.raises(StudyError, match="not finite"):
        static_int8.calibrated(one_layer(), [torch.full((2, 8), np.nan)], "min-max")


def test_smoothing_changes_no_output_and_helps_where_a_channel_is_wide() -> None:
    torch.manual_seed(0)
    net, values = one_layer(64), torch.randn(500, 64)
    values[:, 3] *= 100
    seen = static_int8.channel_statistics(net, values.split(100))
    assert torch.equal(seen["0"].largest, values.abs().amax(0))
    assert torch.allclose(seen["0"].sum / seen["0"].count, values.mean(0), atol=1e-4)
    smooth = static_int8.smoothed(net, seen)
    with torch.inference_mode():
        expected = net(values)
        assert torch.allclose(smooth(values), expected, atol=1e-3)
        plain, better = (static_int8.calibrated(one, [values], "min-max")(values) - expected for one in (net, smooth))
    assert better.pow(2).mean() < 0.1 * plain.pow(2).mean()


def test_corrected_biases_leave_the_mean_output_where_it_was() -> None:
    torch.manual_seed(0)
    for bias in (True, False):
        net, values = nn.Sequential(nn.Linear(64, 16, bias=bias)).eval(), torch.randn(2000, 64) + 3
        quantised = static_int8.calibrated(net, [values], "min-max")
        with torch.inference_mode():
            expected = net(values).mean(0)
            before = (quantised(values).mean(0) - expected).abs().max()
            static_int8.correct_biases(quantised, net, static_int8.channel_statistics(net, [values]))
            assert (quantised(values).mean(0) - expected).abs().max() < 0.2 * before


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Params, Recipe, list[torch.Tensor]]:
    """The recipe over the one trained fold of two, and all images that were calibrated on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(contest, "SIZES", (1, 4, 16))
        patch.setattr(contest, "DRAWS", 2)
        project, params = tiny.project(tmp_path_factory.mktemp("calibrated"))
        with pytest.raises(StudyError, match="run `visionquant train --network tiny-digits`"):
            contest.run(project, params, machine.probe("cpu"))
        spec = params.training.networks[NETWORK]
        done = training.train(spec, params.training, training.load_digits(spec.image_size), 1)
        training.save_trained(project, NETWORK, 1, done.net)
        used: list[torch.Tensor] = []
        observe = static_int8.observe

        def spied(net: nn.Module, batches: object, seen: static_int8.Observers) -> None:
            kept = list(batches)  # type: ignore[call-overload]
            used.extend(kept)
            observe(net, kept, seen)

        patch.setattr(static_int8, "observe", spied)
        found = contest.run(project, params, machine.probe("cpu"))
    outcomes.write_recipe(project, found, params)
    return project, params, found, used


def test_the_recipe_compares_all_contestants_on_the_same_images(
    ran: tuple[Project, Params, Recipe, list[torch.Tensor]],
) -> None:
    project, params, found, _ = ran
    kept = archive.local(project, params).recipes["calibration"]
    assert kept.model_copy(update={"settings": None}) == found
    assert set(kept.settings or ()) >= {f"training.networks.{NETWORK}", "training.folds"}
    assert len({tuple(row) for row in found.rows}) == 1
    statistics = [row["statistic"] for row in found.rows]
    assert statistics[:3] == ["fp32", "bitsandbytes", "dynamic"]
    assert [statistics.count(name) for name in STATISTICS] == [3 * 2 + 3] * 3
    assert [statistics.count(name) for name in (contest.SMOOTH, contest.CORRECTED)] == [2, 2]
    base = found.rows[0]
    assert (base["quantised_layers"], base["sqnr_db"]) == (0, None)
    assert {row["quantised_layers"] for row in found.rows[1:]} == {7}
    for row in found.rows:
        assert (row["folds"], row["n"]) == ("1", 898)
        assert row["right"] == base["right"] + row["only_here"] - row["only_fp32"]
    assert all(row["sqnr_db"] > 20 for row in found.rows[1:] if row["images"] == 16)


def test_held_out_images_are_never_calibrated_on(ran: tuple[Project, Params, Recipe, list[torch.Tensor]]) -> None:
    _, params, _, used = ran
    data = training.load_digits(params.training.networks[NETWORK].image_size)
    learn, held = (
        {data.images[i].numpy().tobytes() for i in part.tolist()} for part in training.folds(data.labels, 2, 0)[1]
    )
    drawn = [image.numpy().tobytes() for batch in used for image in batch]
    assert not set(drawn) & (held - learn)
    assert len(drawn) == 3 * (2 * 16 + 3) + 2 * 2 * 16  # the last: for SmoothQuant and bias correction
    assert len(set(drawn) - learn) == len(contest.ACCIDENTS) + 1


def test_tables_and_figure_show_what_the_recipe_found(
    ran: tuple[Project, Params, Recipe, list[torch.Tensor]],
) -> None:
    project, params, found, _ = ran
    study = evidence.gather(project, params)
    (table,) = tables(study, keeping_page.CALIBRATION)
    assert len(table.rows) == 3 + 2 + 3 * (2 + 3)
    assert table.rows[0][3].key == pytest.approx(100 * found.rows[0]["right"] / 898)
    assert {row[3].word for row in table.rows[1:]} <= {"UNDECIDED", "LOWER", "HIGHER"}
    assert keeping_page.calibration_figure(study) == keeping_page.calibration_figure(study)
    assert "min-max" in keeping_page.calibration_figure(study).svg


def test_without_a_run_the_page_says_which_command_to_run(tmp_path: Path) -> None:
    project = made.project(tmp_path / "empty")
    study = evidence.gather(project, tiny_params(project))
    (table,) = tables(study, keeping_page.CALIBRATION)
    assert table.rows == ()
    assert "visionquant recipe calibration" in table.source
    assert "nothing to show" in keeping_page.calibration_figure(study).svg


def tiny_params(project: Project) -> Params:
    from visionquant.settings import params as parameters

    return parameters.load(project)
