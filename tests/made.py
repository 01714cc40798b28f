"""Records made of chosen samples, so that what the analysis derives from them is known beforehand."""

import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import tiny

from visionquant.analysis import study as evidence
from visionquant.analysis.study import Study
from visionquant.core.machine import Environment
from visionquant.core.paths import Project
from visionquant.records import archive
from visionquant.records import record as records
from visionquant.records.cell import Cell, Conditions, Memory, Replicate, Sentinel, Throughput
from visionquant.records.record import SCHEMA, Code, Conversion, Fidelity, Record, Settings, Size, Weights
from visionquant.settings import params as parameters
from visionquant.weights import architectures

Processes = Sequence[Sequence[float]]
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
    """A checkout's settings, published tables, architectures and notebooks, without records."""
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy2(tiny.ROOT / "params.yaml", root / "params.yaml")
    for name in ("data/supplement", "data/architectures", "notebooks"):
        shutil.copytree(tiny.ROOT / name, root / name)
    return Project(root)


QUIET = Conditions(
    isolation="clean", others_share=0.0, load_1m=0.1, frequency_mhz=2600.0, omp_wait_policy="not set", gpu=None
)


def cell(
    batch_size: int,
    processes: Processes,
    device_bytes: int | None = None,
    gpu: bool = False,
    sentinel_ms: float = 1.0,
    turns_with: tuple[str, ...] = (),
) -> Cell:
    """A measured cell with these milliseconds by process; the throughput of each is that of its first pass."""
    return Cell(
        batch_size=batch_size,
        status="ok",
        reason="",
        replicates=tuple(
            Replicate(
                position=position,
                turns_with=turns_with,
                started_at="2026-01-01T00:00:00.000+00:00",
                threads=2,
                warmup_ms=(1.0,),
                settled=None,
                wall_ms=tuple(times),
                gpu_ms=tuple(0.5 * ms for ms in times) if gpu else None,
                stopped_by="count",
                throughput=Throughput(images=10 * batch_size, seconds=10 * times[0] / 1e3),
                host_peak=2**30,
                sentinel=Sentinel(before_ms=sentinel_ms, after_ms=sentinel_ms),
                conditions=QUIET,
            )
            for position, times in enumerate(processes)
        ),
        stopped_by="count",
        calibration_ms=(0.99, 1.0, 1.0, 1.01),
        memory=Memory(
            stored_weights=100,
            allocated_after=device_bytes,
            peak_allocated=device_bytes,
            peak_reserved=device_bytes,
            host_peak=2**30,
        ),
    )


@functools.cache
def _committed() -> parameters.Params:
    """The committed settings, read once: a study is 64 records."""
    return parameters.load(Project(tiny.ROOT))


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
    facts = architectures.facts(Project(tiny.ROOT), model)
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
        cells=tuple(cells),
        elapsed_s=10.0,
    )


def recorded_set(found: Project, platform: str, contents: Sequence[Record]) -> Path:
    """A recorded set with its manifest, whatever the records are."""
    with archive.new_machine(found.machines / platform) as folder:
        for one in contents:
            records.write(folder / "latency" / f"{one.model}-{one.precision}.json", one)
    return found.machines / platform


STEADY = (0.99, 1.0, 1.01)


def study(root: Path, factors: Mapping[str, float], environment: Environment = CPU, base_ms: float = 100.0) -> Study:
    """A whole study in which precision p takes ``factors[p]`` x ``base_ms`` an image."""
    root.mkdir(parents=True, exist_ok=True)
    found = project(root)
    params = parameters.load(found)
    cuda = environment.device == "cuda"
    for model in params.study.models:
        for precision in params.study.precisions:
            cells = [
                cell(
                    size,
                    [
                        [base_ms * factors[precision] * size * process * (1 + i / 1000) for i in range(20)]
                        for process in STEADY
                    ],
                    device_bytes=2**20 * size if cuda else None,
                    gpu=cuda,
                )
                for size in params.study.batch_sizes
            ]
            records.write(found.record(model, precision), record(model, precision, cells, environment))
    return evidence.gather(found, params)
