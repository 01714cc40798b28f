"""The accessibility checker axe-core (MPL-2.0), fetched by npm once and kept beside pytest's cache."""

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

VERSION = "4.10.3"


def source(cache: Path) -> str:
    """Its script as text; the test is skipped, with the reason, where npm is missing or can't fetch it."""
    kept = cache / f"axe-{VERSION}.min.js"
    if not kept.is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm, which brings axe-core, is not installed")
        cache.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", f"axe-core@{VERSION}", "--silent", "--pack-destination", str(cache)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        archive = cache / f"axe-core-{VERSION}.tgz"
        if done.returncode or not archive.is_file():
            pytest.skip("npm could not fetch axe-core; is there a network?")
        with tarfile.open(archive) as packed:
            file = packed.extractfile("package/axe.min.js")
            assert file is not None
            kept.write_bytes(file.read())
    return kept.read_text()
