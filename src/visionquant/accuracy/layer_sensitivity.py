"""Where quantisation noise comes from: each Linear layer quantised alone, and each left out of a quantised whole.

Everything else stays FP32, so that quantisation is measured and not a half precision around it. The engine of mixed
policies converts a copy as a whole; its layers are put into the FP32 network one at a time, and FP32's into the copy.
Blocks of the outermost list that have ended before a layer's own begins are not computed again: what they answered is
given once more.
"""

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map

from visionquant.accuracy import allocation
from visionquant.bench import fidelity
from visionquant.bench.backends import bnb, convert, mixed
from visionquant.bench.fidelity import Head, NetworkOutput, Outputs
from visionquant.core.errors import StudyError
from visionquant.settings.precision import MixedPrecision, PrecisionRow, Rule

BATCH = 16
OUTLIER = 6.0
WHOLE = ""  # the name of a network in which no layer was exchanged


class Noise(NamedTuple):
    """Against FP32, means over images: SQNR in dB of features and of logits, KL(FP32 || found) in nats.

    None: the outputs are FP32's own, or there are no logits.
    """

    sqnr_db: float | None
    logits_sqnr_db: float | None
    kl_nats: float | None


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer in a ``kind`` of precision: the noise of it ``alone``, and of the whole with it ``left_out``.

    ``bytes_by_precision`` are those kept for it, bias included, as "fp32" and as ``kind``. ``outlier_channels`` of its
    inputs exceed 6.0 on some image (T. Dettmers et al., LLM.int8() (2022), section 4).
    """

    layer: str
    kind: str
    bytes_by_precision: Mapping[str, int]
    outlier_channels: int
    alone: Noise
    left_out: Noise | None


@dataclass(frozen=True)
class Sensitivity:
    """Of one network and precision: the noise of the ``whole``, None where it was not asked for, and of its layers."""

    whole: Noise | None
    layers: tuple[LayerSensitivity, ...]


def measure(
    net: nn.Module,
    row: PrecisionRow,
    images: torch.Tensor,
    head: Head | None = None,
    device: str = "cpu",
    leave_out: bool = True,
    tell: Callable[[float], None] = lambda share: None,
) -> Sensitivity:
    """The sensitivity of every Linear layer that ``row`` puts into another type, in the network's order.

    Args:
        net: FP32, evaluating; it is moved to ``device`` and otherwise left as it was.
        row: of params.yaml; of a mixed policy the layers that its rules quantise.
        images: prepared, float32, (n, channels, height, width).
        head: features to logits; without one there are no logits, and no KL divergence.
        leave_out: whether each layer is also left out of the whole, which takes as long again.
        tell: is told which share is done, 0 to 1, after every batch.

    Raises:
        StudyError: the row changes no Linear layer, can't be a policy's, or outputs are not finite.
    """
    policy = in_float32(net, row, device)
    kinds = {name: kind for name, kind in mixed.assign(net, policy).items() if kind not in ("", "fp32")}
    whole, engine = convert.convert(copy.deepcopy(net), policy, device), convert.backend_of(policy.engine)
    net.to(device)
    own, other = ({name: one.get_submodule(name) for name in kinds} for one in (net, whole))
    sizes = {
        name: {"fp32": engine.bytes_of(own[name])[0], kind: engine.bytes_of(other[name])[0]}
        for name, kind in kinds.items()
    }
    noises: dict[tuple[str, str], list[tuple[int, Noise]]] = defaultdict(list)
    batches = torch.split(images.to(device), BATCH)
    for number, batch in enumerate(batches, 1):
        exchanged = _exchanged(net, other, batch, head or _no_logits)
        _, exact = next(exchanged)
        for name, outputs in exchanged:
            noises["alone", name].append((len(batch), _noise(exact, outputs, name)))
        if leave_out:
            for name, outputs in _exchanged(whole, own, batch, head or _no_logits):
                noises["left out", name].append((len(batch), _noise(exact, outputs, f"all but {name or 'none'}")))
        tell(number / len(batches))
    outliers = outlier_channels(net, tuple(kinds), images.to(device))
    found = {key: _mean(parts) for key, parts in noises.items()}
    layers = tuple(
        LayerSensitivity(name, kind, sizes[name], outliers[name], found["alone", name], found.get(("left out", name)))
        for name, kind in kinds.items()
    )
    return Sensitivity(found.get(("left out", WHOLE)), layers)


def quantisable(net: nn.Module) -> tuple[str, ...]:
    """Names of the Linear layers that a policy may quantise; a StudyError where there is none."""
    every = (Rule(modules=".", to="int8"),)
    row = MixedPrecision(method="mixed", dtype="float32", cpu_dtype="float32", rules=every)
    return tuple(name for name, kind in mixed.assign(net, row).items() if kind)


def in_float32(net: nn.Module, row: PrecisionRow, device: str) -> MixedPrecision:
    """The policy that does with Linear layers what ``row`` does, and keeps FP32 elsewhere; errors as of `measure`."""
    if isinstance(row, MixedPrecision):
        floats = {"to": "fp32"}
        kept = tuple(rule.model_copy(update=floats) if rule.to in mixed.FLOATS else rule for rule in row.rules)
        return row.model_copy(update={"dtype": "float32", "cpu_dtype": "float32", "rules": kept})
    kind, skip = allocation.kind_of(row, device), set(getattr(row, "skip", ()))
    wanted = {name: "" if kind == "fp32" or skip & set(name.split(".")) else kind for name in quantisable(net)}
    policy = allocation.policy(wanted, [row], "float32", "float32")
    if not isinstance(policy, MixedPrecision):
        raise StudyError(convert.subject_of(row), "it changes no Linear layer of this model", "name another precision")
    return policy


def outlier_channels(net: nn.Module, layers: Sequence[str], images: torch.Tensor) -> dict[str, int]:
    """How many input channels of each layer exceed ``OUTLIER`` somewhere in ``images`` (n, channels, height, width)."""
    met: dict[str, Any] = dict.fromkeys(layers, torch.zeros(1, dtype=torch.bool, device=images.device))

    def watch(name: str, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        met[name] = met[name] | (inputs[0].abs().flatten(0, -2).amax(0) > OUTLIER)

    with ExitStack() as hooks, torch.inference_mode():
        for name in layers:
            hooks.enter_context(net.get_submodule(name).register_forward_pre_hook(partial(watch, name)))
        for batch in torch.split(images, BATCH):
            net(batch)
    return {name: int(channels.sum()) for name, channels in met.items()}


def _no_logits(answer: NetworkOutput) -> torch.Tensor:
    """One class stands for none."""
    return torch.zeros(len(fidelity.features_of(answer)), 1)


def _exchanged(
    net: nn.Module, layers: Mapping[str, nn.Module], images: torch.Tensor, head: Head
) -> Iterator[tuple[str, Outputs]]:
    """The outputs of ``net`` as it is, named ``WHOLE``, then of it with each of ``layers`` in its own one's place."""
    lists = ((name, one) for name, one in net.named_modules() if isinstance(one, nn.ModuleList) and len(one) > 1)
    place, members = next(lists, ("", nn.ModuleList()))
    blocks = {f"{place}.{number}": block for number, block in enumerate(members)}
    with _recorded(blocks) as answers:
        outputs = fidelity.outputs(net, images, head)
    yield WHOLE, outputs
    ended = list(answers)
    for name, layer in layers.items():
        around = [number for number, block in enumerate(ended) if f"{name}.".startswith(f"{block}.")]
        before = {blocks[block]: answers[block] for block in ended[: around[0] if around else 0]}
        own = net.get_submodule(name)
        bnb.replace(net, name, layer)
        try:
            with _replayed(before):
                outputs = fidelity.outputs(net, images, head)
        finally:
            bnb.replace(net, name, own)
        yield name, outputs


@contextmanager
def _recorded(blocks: Mapping[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """What each block answers meanwhile, in the order in which they end; nothing where one is called twice."""
    answers: dict[str, Any] = {}
    calls: Counter[str] = Counter()

    def keep(name: str, _: nn.Module, __: Any, answer: Any) -> None:
        answers[name] = _copied(answer)
        calls[name] += 1

    with ExitStack() as hooks:
        for name, block in blocks.items():
            hooks.enter_context(block.register_forward_hook(partial(keep, name)))
        yield answers
    if max(calls.values(), default=0) > 1:
        answers.clear()


@contextmanager
def _replayed(answers: Mapping[nn.Module, Any]) -> Iterator[None]:
    """Each block answers what it answered before, whatever it is asked."""
    try:
        for block, answer in answers.items():
            vars(block)["forward"] = partial(_copied, answer)
        yield
    finally:
        for block in answers:
            vars(block).pop("forward", None)


def _copied(answer: Any, *_: Any, **__: Any) -> Any:
    """The same tensors anew: what follows may change them in place."""
    return tree_map(lambda value: value.clone() if isinstance(value, torch.Tensor) else value, answer)


def _noise(exact: Outputs, found: Outputs, of: str) -> Noise:
    features = fidelity.compare(exact, found, "")
    logits = fidelity.compare(exact._replace(features=exact.logits), found._replace(features=found.logits), "")
    if features.nan_count:
        raise StudyError(f"sensitivity of {of}", "outputs that are not finite", "leave the precision out")
    return Noise(features.sqnr_db, logits.sqnr_db, features.kl_nats if exact.logits.shape[1] > 1 else None)


def _mean(parts: Sequence[tuple[int, Noise]]) -> Noise:
    """Over batches, each with its number of images; figures that a batch lacks are left out."""

    def of(field: int) -> float | None:
        known = [(count, value) for count, noise in parts if (value := noise[field]) is not None]
        counts, values = zip(*known, strict=True) if known else ((), ())
        return float(np.average(values, weights=counts)) if known else None

    return Noise(*map(of, range(len(Noise._fields))))
