"""Where quantisation noise comes from, layer by layer: trained weights beside seeded ones of the same architecture.

Each Linear layer is quantised alone, all else in FP32, and left out of a quantised whole, on training images of the
probe's task that its linear head, fitted on each network's own FP32 features, has not learned from. Seeded weights meet
no outliers, so what they say of a layer is what its shape and place say.
"""

from collections.abc import Iterator

from visionquant.accuracy import layer_sensitivity, probe, probe_task
from visionquant.accuracy.layer_sensitivity import Noise
from visionquant.accuracy.model_source import open_model
from visionquant.recipes import Environment, Params, Project, Row, recipe
from visionquant.settings.params import known

MODEL, PRECISIONS, IMAGES = "dinov2-small-packaged", ("nf4", "int8"), 128
ALL = "all layers"


@recipe("sensitivity", weights="pretrained")
def run(project: Project, params: Params, machine: Environment) -> Iterator[Row]:
    """A row a layer, and one of all layers, by weights and precision. StudyError: model or images are not to be had."""
    known("precisions", PRECISIONS, params.precisions)
    for source in (open_model(project, params, MODEL), open_model(project, params, MODEL, seeded=True)):
        net = source.build().to(machine.device)
        task = probe_task.fitted(source, net, machine.device, (IMAGES,))
        images = task.parts[0].images
        for name in PRECISIONS:
            found = layer_sensitivity.measure(net, params.precisions[name], images, task.head, machine.device)
            shared: Row = {"model": MODEL, "weights": source.weights, "precision": name}
            shared |= {"task": probe.TASK, "pixels": images.shape[-1], "images": len(images)}
            for one in found.layers:
                sizes: Row = {"bytes": one.bytes_by_precision[one.kind], "fp32_bytes": one.bytes_by_precision["fp32"]}
                named: Row = {"layer": one.layer, "outlier_channels": one.outlier_channels}
                noise = _figures("", one.alone) | _figures("left_out_", one.left_out)
                yield shared | named | sizes | noise | {"why": "the outputs are FP32's own"}
            yield shared | {"layer": ALL} | _figures("", found.whole) | {"why": "a figure of single layers"}


def _figures(side: str, noise: Noise | None) -> Row:
    return {f"{side}{field}": value for field, value in noise._asdict().items()} if noise else {}
