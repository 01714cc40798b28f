"""The figures as a data set that machines find and load: croissant.json, in the form of MLCommons Croissant 1.0.

Its tables are those of ``reports/tables``, as `visionquant analyse` wrote them, each with its sha256 and the type of
every column. It names no address and no identifier, for nobody gave one.
Source: Akhtar et al., Croissant: A Metadata Format for ML-Ready Datasets (2024), arXiv 2403.19546.
"""

import hashlib
from pathlib import Path
from typing import Any

from visionquant.core import files
from visionquant.core.paths import Project
from visionquant.report import metadata

ANALYSE = "run `visionquant analyse`"
FORMAT = "http://mlcommons.org/croissant/1.0"
TERMS = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
} | {term: f"cr:{term}" for term in TERMS}
NUMBERS = {"value": "sc:Float", "low": "sc:Float", "high": "sc:Float", "n": "sc:Integer"}
TABLES = {
    "cells": "Every figure with unit, interval, number of values and verdict; batch size 0 is of the model itself.",
    "missing": "Every figure that is missing, its status and the reason; quantities and batch sizes divided by spaces.",
}


def contents(project: Project) -> dict[Path, str]:
    """croissant.json.

    Raises:
        StudyError: a table is not there.
    """
    about = metadata.package_facts(project)
    tables = {name: files.content(project.tables / f"{name}.csv", ANALYSE) for name in TABLES}
    found = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": FORMAT,
        "name": f"{about['name']}-figures",
        "description": f"{about['description']} The figures of all recorded machines, and of the published study.",
        "version": about["version"],
        "license": f"https://spdx.org/licenses/{about['license']}",
        "distribution": [_file(project, name, table) for name, table in tables.items()],
        "recordSet": [_records(name, table) for name, table in tables.items()],
    }
    return {project.root / "croissant.json": metadata.as_json(found)}


def _file(project: Project, name: str, table: bytes) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": f"{name}.csv",
        "name": f"{name}.csv",
        "description": TABLES[name],
        "contentUrl": project.shown(project.tables / f"{name}.csv"),
        "encodingFormat": "text/csv",
        "sha256": hashlib.sha256(table).hexdigest(),
    }


def _records(name: str, table: bytes) -> dict[str, Any]:
    columns = table.decode().partition("\n")[0].split(",")
    numbers = NUMBERS | ({"batch_size": "sc:Integer"} if name == "cells" else {})
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{name}/{column}",
            "name": column,
            "dataType": numbers.get(column, "sc:Text"),
            "source": {"fileObject": {"@id": f"{name}.csv"}, "extract": {"column": column}},
        }
        for column in columns
    ]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "description": TABLES[name], "field": fields}
