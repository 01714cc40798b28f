"""What the listings on accuracy and reproduction do when they are run; each is restated in a few lines of our own."""

import warnings

import int8
import pytest
import tiny
import torch
from listed import linears, network, outcome
from torch import nn

KEPT = ("classifier", "norm", "embedding")


def mixed(net: nn.Module) -> None:
    """The listing's walk: critical names are left, attention is halved, what is below a Linear layer is exchanged."""
    for name, layer in net.named_modules():
        if any(part in name for part in KEPT):
            pass
        elif isinstance(layer, nn.MultiheadAttention):
            layer.half()
        elif isinstance(layer, nn.Linear):
            int8.exchange(layer)


def mixed_from_above(net: nn.Module) -> None:
    """The same choice, made where a layer can be replaced: in its parent."""
    for name in linears(net):
        if not any(part in name for part in KEPT):
            parent, _, leaf = name.rpartition(".")
            setattr(net.get_submodule(parent), leaf, int8.filled(net.get_submodule(name)))


def classes(net: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in net.named_modules()}


@pytest.mark.parametrize("model", tiny.CONFIGS)
def test_mixed_precision(model: str) -> None:
    net = network(model)
    classes_before = classes(net)
    weights_before = {name: value.clone() for name, value in net.state_dict().items()}

    mixed(net)
    assert classes(net) == classes_before
    weights = net.state_dict()
    assert weights.keys() == weights_before.keys()
    assert all(weights[name].dtype == weights_before[name].dtype for name in weights)
    assert all(torch.equal(weights[name], weights_before[name]) for name in weights)

    mixed_from_above(net)
    changed = {name for name, found in classes(net).items() if found is not classes_before[name]}
    assert changed
    assert changed == {name for name in linears(net) if not any(part in name for part in KEPT)}
    assert outcome("listings/mixed-precision") == "fails"


def watch(accuracy: float, baseline: float) -> tuple[float, float]:
    """The listing's check of a retained share of 95 %; the accuracy is given, as nothing in it says how it is found."""
    share = accuracy / baseline
    if share < 0.95:
        raise Warning(f"{share:.1%} retained")
    return accuracy, share


def watch_and_warn(accuracy: float, baseline: float) -> tuple[float, float]:
    share = accuracy / baseline
    if share < 0.95:
        warnings.warn(f"{share:.1%} retained", stacklevel=2)
    return accuracy, share


def test_monitor() -> None:
    assert watch(0.78, 0.80) == (0.78, pytest.approx(0.975))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which hides warnings, but this one is an exception
        with pytest.raises(Warning, match=r"87\.5%"):
            watch(0.70, 0.80)

    with pytest.warns(UserWarning, match=r"87\.5%"):
        found = watch_and_warn(0.70, 0.80)
    assert found == (0.70, pytest.approx(0.875))
    assert outcome("listings/monitor") == "fails"


EXPECTED = {"speedup": 2.0, "saved": 0.5}


def check(results: dict[str, float]) -> None:
    """The listing's validation: one line for each metric, whatever it finds."""
    for metric, expected in EXPECTED.items():
        good = abs(results[metric] - expected) / expected <= 0.05
        print(metric, "agrees" if good else "differs")  # noqa: T201


def missed(results: dict[str, float]) -> list[str]:
    return [metric for metric, expected in EXPECTED.items() if abs(results[metric] - expected) / expected > 0.05]


def test_validation(capsys: pytest.CaptureFixture[str]) -> None:
    right, wrong = {"speedup": 2.05, "saved": 0.5}, {"speedup": 0.2, "saved": 50.0}
    answers = [check(right), check(wrong)]  # type: ignore[func-returns-value]
    assert capsys.readouterr().out.splitlines() == [
        "speedup agrees",
        "saved agrees",
        "speedup differs",
        "saved differs",
    ]
    assert answers == [None, None]  # the same for both, and nothing was raised

    assert missed(right) == []
    assert missed(wrong) == ["speedup", "saved"]
    assert outcome("listings/validation") == "fails"
