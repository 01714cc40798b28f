"""An ONNX graph in OpenVINO's own format, quantised by NNCF on the way: a program, ``FOLDER BITS``.

It is a process of its own, and no fork: the threads of a process that has compiled a graph would not be there in one.
It reads ``model.onnx`` in the folder, and ``images.npy`` where there is one, and writes ``own.xml`` and ``own.bin``.
"""

import logging
import sys
from pathlib import Path

import numpy as np

IMAGES, XML, WEIGHTS_OF_XML = "images.npy", "own.xml", "own.bin"


def rewrite(folder: Path, bits: int) -> None:
    """Write the graph, in static INT8 with ranges of the images (n, channels, height, width) if there are some.

    Args:
        folder: of the files that the module names.
        bits: of a weight, 7 or 8.
    """
    import openvino

    model = openvino.Core().read_model(folder / "model.onnx")
    if (folder / IMAGES).is_file():
        import nncf

        nncf.set_log_level(logging.ERROR)
        images = np.load(folder / IMAGES)
        fix = nncf.OverflowFix.ENABLE if bits == 7 else nncf.OverflowFix.DISABLE
        model = nncf.quantize(
            model,
            nncf.Dataset(list(images[:, None])),
            subset_size=len(images),
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
        )
    openvino.save_model(model, folder / XML, compress_to_fp16=False)


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]), int(sys.argv[2]))
