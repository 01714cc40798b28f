"""Records made of chosen samples, so that what the analysis derives from them is known beforehand."""

import functools
import shutil
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from visionquant.analysis import study as evidence
from visionquant.analysis.study import Study
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records import archive
from visionquant.records import record as records
from visionquant.records.cell import BASELINE, KERNELS, PLACEBO, Cell, Memory, Round, Slot, Throughput
from visionquant.records.outcomes import Probe, ProbePredictions
from visionquant.records.record import SCHEMA, Code, Conversion, Fidelity, Record, Settings, Size, Weights
from visionquant.settings import params as parameters
from visionquant.settings.params import Params
from visionquant.weights import architectures

Rounds = Sequence[Sequence[float]]
ROOT, OWN = Path(__file__).resolve().parents[1], "own"
CPU = Environment(
    device="cpu",
    gpu=None,
    gpu_memory_mib=None,
    driver=None,
    cuda_driver=None,
    cpu="Made-up CPU",
    cpu_isa=("avx2",),
    cores=2,
    memory_mib=4096,
    system="Linux x86_64",
    python="3.11.2",
    torch="2.13.0",
    transformers="5.23.0",
    numpy="2.4.6",
    affinity="all",
    cpu_quota="none",
    variables=(),
    isa_limits=(),
    libraries={"bitsandbytes": "0.50.2", "onnx": "1.19.0", "onnxruntime": "1.24.0"},
)
CARD = CPU.model_copy(
    update={
        "device": "cuda",
        "gpu": "NVIDIA GeForce RTX 4070 Ti SUPER",
        "gpu_memory_mib": 16376,
        "driver": "580.1",
        "cuda_driver": "13.0",
    }
)


def project(root: Path) -> Project:
    """A checkout's settings, of the supplement's sixteen models, published tables, architectures and notebooks."""
    root.mkdir(parents=True, exist_ok=True)
    settings = (ROOT / "params.yaml").read_text()
    (root / "params.yaml").write_text(settings.replace("  - dinov2-small-packaged\n  precisions:", "  precisions:"))
    for name in ("data/supplement", "data/published", "data/architectures", "notebooks"):
        shutil.copytree(ROOT / name, root / name)
    return Project(root)


def cell(
    batch_size: int,
    rounds: Rounds,
    base: Rounds | None = None,
    placebo: Rounds | None = None,
    blocks: int = 1,
    others: float = 0.0,
    kernels_ms: float = 0.0,
    device_bytes: int | None = None,
    gpu: bool = False,
) -> Cell:
    """A measured cell with these milliseconds by round, which are dealt to so many blocks.

    With FP32's milliseconds (``base``) it took turns with FP32 and the placebo (by itself as fast as FP32), while other
    programs took the share ``others`` of the cores; without, it is one of the time before rounds. On a GPU each slot
    has a window as fast as its first pass. :func:`record` names the arm.
    """
    arms = {OWN: rounds} if base is None else {BASELINE: base, OWN: rounds, PLACEBO: placebo or base}
    arms |= {name: [[kernels_ms] * blocks] * len(rounds) for name in KERNELS} if kernels_ms else {}
    return Cell(
        batch_size=batch_size,
        status="ok",
        reason="",
        planned=len(rounds),
        rounds=tuple(
            Round(
                number=number + 1,
                started_at=f"2026-01-01T{number:02}:00:00.000+00:00",
                threads=2,
                omp_wait_policy="PASSIVE",
                warmup_ms=(1.0,),
                spent_s=2.0,
                passes_s=1.5,
                host_peak=2**30,
                load_1m=0.1,
                frequency_mhz=2600.0,
                slots=tuple(
                    _slot(arm, block, order, np.array_split(arms[arm][number], blocks)[block], others, gpu * batch_size)
                    for order, (block, arm) in enumerate(product(range(blocks), arms))
                ),
            )
            for number in range(len(rounds))
        ),
        memory=Memory(
            stored_weights=100,
            allocated_after=device_bytes,
            peak_allocated=device_bytes,
            peak_reserved=device_bytes,
            host_peak=2**30,
        ),
    )


def _slot(arm: str, block: int, order: int, times: Sequence[float], others: float, windowed: int) -> Slot:
    """``windowed`` images stand in a batch of its window; 0: it has none."""
    window = Throughput(images=10 * windowed, seconds=times[0] / 100) if windowed and len(times) else None
    return Slot(
        arm=arm,
        block=block,
        order=order,
        wall_ms=tuple(times),
        gpu_ms=tuple(0.5 * ms for ms in times) if windowed else None,
        window=window,
        others=others,
        steal=0.0,
        pressure=0.0,
    )


def _named(cell: Cell, precision: str) -> Cell:
    """The cell with its own arm by its name; FP32's own stands for the base that it is."""
    arms = {OWN: precision} | ({BASELINE: ""} if precision == BASELINE else {})
    named = [
        [slot.model_copy(update={"arm": name}) for slot in one.slots if (name := arms.get(slot.arm, slot.arm))]
        for one in cell.rounds
    ]
    rounds = [one.model_copy(update={"slots": tuple(slots)}) for one, slots in zip(cell.rounds, named, strict=True)]
    return cell.model_copy(update={"rounds": tuple(rounds)})


@functools.cache
def _committed() -> parameters.Params:
    """The committed settings, read once: a study is 64 records."""
    return parameters.load(Project(ROOT))


def record(
    model: str,
    precision: str,
    cells: Sequence[Cell],
    environment: Environment = CPU,
    weights: str = "seeded",
    cosine: float | None = 0.99,
) -> Record:
    """A record of the committed settings with these cells; stored bytes are the committed arithmetic's."""
    params = _committed()
    facts = architectures.facts(Project(ROOT), model)
    assert facts is not None
    stored = facts.model_bytes.get(precision, facts.model_bytes["fp16"])
    return Record(
        schema_version=SCHEMA,
        model=model,
        precision=precision,
        settings=Settings(
            model=params.models[model],
            precision=params.precisions[precision],
            protocol=params.protocol,
            device=environment.device,
            weights=Weights.model_validate({"kind": weights, "source": "made up", "manifest_sha256": "0" * 64}),
        ),
        environment=environment,
        code=Code(measuring_sha256="c0de" * 16, git_commit=None, git_dirty=None),
        conversion=Conversion(
            quantized_modules=0 if precision in ("fp32", "fp16") else facts.linear_layers,
            quantized_share=0.0 if precision in ("fp32", "fp16") else 0.9,
            skipped_modules=(),
            dtypes={"float32": facts.parameters},
            knobs={"method": "made up"},
        ),
        size=Size(
            parameters=facts.parameters,
            linear_layers=facts.linear_layers,
            macs=facts.macs,
            stored_weights=stored,
            file_bytes=stored + 1000,
        ),
        fidelity=Fidelity(
            images=8,
            cosine=cosine,
            sqnr_db=None if precision == "fp32" else 20.0,
            nan_count=0 if cosine is not None else 5,
            top1_agreement=1.0,
            kl_nats=0.0,
            logits_from="a fixed seeded projection to 1000 classes",
        ),
        operations=400,
        outlier_layers=0 if precision == "int8" else None,
        cells=tuple(_named(one, precision) for one in cells),
        elapsed_s=10.0,
    )


def write(path: Path, one: Record) -> Record:
    """Write a record with its samples, as the pipeline does."""
    records.write_samples(records.samples_of(path), one)
    return records.write(path)


def recorded_set(found: Project, platform: str, contents: Sequence[Record]) -> Path:
    """A recorded set with its manifest, whatever the records are."""
    with archive.new_machine(found.machines / platform) as folder:
        for one in contents:
            write(folder / "latency" / f"{one.model}-{one.precision}.json", one)
    return found.machines / platform


STEADY, WOBBLE = (0.99, 1.0, 1.01), (0.998, 1.0, 1 / 0.998)


def times(ms: float, wobbles: Sequence[float] = (1.0, 1.0, 1.0)) -> Rounds:
    """Three rounds of twenty passes around ``ms``: the machine moves by 1 % in between, an arm by its wobble."""
    both = zip(STEADY, wobbles, strict=True)
    return [[ms * steady * wobble * (1 + i / 1000) for i in range(20)] for steady, wobble in both]


def probe(
    params: Params, model: str, lost: Mapping[str, int], images: int = 10_000, own: Mapping[str, int] | None = None
) -> Probe:
    """Of ``images``, in order of their classes, FP32 gets the first nine tenths right, each precision so many fewer.

    ``own``: those that have a head of their own, and how many fewer it gets right.
    """

    def chosen(fewer: int) -> tuple[int, ...]:
        right = images * 9 // 10 - fewer
        return tuple(label if i < right else (label + 1) % 10 for i, label in enumerate(labels))

    def answers(name: str, fewer: int) -> ProbePredictions:
        classes = chosen(fewer)
        return ProbePredictions(
            precision=params.precisions[name], quantized_modules=0, classes=classes, confidence=(0.9,) * images,
            key="", neighbours=classes, cosine=1.0 - fewer / images, least_cosine=0.5, stored_weights=2**20,
            seconds=1.0, own_head=chosen(own[name]) if own and name in own else (),
        )  # fmt: skip

    labels = tuple(i * 10 // images for i in range(images))
    found = {name: answers(name, fewer) for name, fewer in {BASELINE: 0, **lost}.items()}
    return Probe(
        model=model, task="fashion-mnist", weights="made up", environment=CPU, settings={}, labels=labels,
        precisions=found,
    )  # fmt: skip


def study(root: Path, factors: Mapping[str, float], environment: Environment = CPU, base_ms: float = 100.0) -> Study:
    """A whole study in which precision p takes ``factors[p]`` x ``base_ms`` an image, in three rounds of two blocks."""
    root.mkdir(parents=True, exist_ok=True)
    found = project(root)
    params = parameters.load(found)
    cuda = environment.device == "cuda"
    for model in params.study.models:
        for precision in params.study.precisions:
            fp32 = precision == BASELINE
            cells = [
                cell(
                    size,
                    times(base_ms * factors[precision] * size, (1.0, 1.0, 1.0) if fp32 else WOBBLE[::-1]),
                    base=times(base_ms * size),
                    placebo=times(base_ms * size, WOBBLE),
                    blocks=2,
                    kernels_ms=fp32 * 1.0,
                    device_bytes=2**20 * size if cuda else None,
                    gpu=cuda,
                )
                for size in params.study.batch_sizes
            ]
            write(found.record(model, precision), record(model, precision, cells, environment))
    return evidence.gather(found, params)
