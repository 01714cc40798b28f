"""What others need to cite this repository and to read its evidence, each file made from where its facts stand.

CITATION.cff (Citation File Format 1.2.0) and codemeta.json (CodeMeta 3.0) from pyproject.toml, JSON Schemas of the
evidence from the classes that read it, and a data dictionary from both. No identifier stands in them that nobody gave.
"""

import inspect
import json
import tomllib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from visionquant.core import files
from visionquant.core.paths import Project
from visionquant.records import archive, outcomes, record

EVIDENCE: dict[str, tuple[type[BaseModel], str]] = {  # by the schema's name: what it is of, and where such files lie
    "record": (record.Record, "data/machines/*/latency/*.json (samples/*.json.gz: the same, with rounds)"),
    "accuracy": (outcomes.Scores, "data/machines/*/accuracy/*.json"),
    "probe": (outcomes.Probe, "data/machines/*/probes/*.json"),
    "recipe": (outcomes.Recipe, "data/machines/*/recipes/*.json"),
    "manifest": (archive.SetManifest, "data/machines/*/manifest.json"),
}
DIALECT = "https://json-schema.org/draft/2020-12/schema"
AUTHORS = "The visionquant authors"


def contents(project: Project) -> dict[Path, str]:
    """Each file with its text."""
    about = package_facts(project)
    schemas = {name: schema_of(kind) for name, (kind, _) in EVIDENCE.items()}
    return {
        project.root / "CITATION.cff": _citation(about),
        project.root / "codemeta.json": as_json(_codemeta(about)),
        **{project.root / "data" / "schemas" / f"{name}.schema.json": as_json(one) for name, one in schemas.items()},
        project.root / "docs" / "records.md": _dictionary(schemas),
    }


def package_facts(project: Project) -> dict[str, Any]:
    """What pyproject.toml says of the package."""
    found: dict[str, Any] = tomllib.loads(files.content(project.root / "pyproject.toml").decode())["project"]
    return found


def schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of files that ``kind`` reads."""
    return {"$schema": DIALECT, **kind.model_json_schema()}


def differing(made: dict[Path, str]) -> list[Path]:
    """The files that are missing or say something else than what is ``made``."""
    return [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def _citation(about: dict[str, Any]) -> str:
    entries = {
        "cff-version": "1.2.0",
        "message": "If you use this software or its records, please cite it by this metadata.",
        "type": "software",
        "title": about["name"],
        "abstract": about["description"],
        "version": about["version"],
        "license": about["license"],
        "authors": [{"name": AUTHORS}],
    }
    return yaml.safe_dump(entries, sort_keys=False, width=120)


def _codemeta(about: dict[str, Any]) -> dict[str, Any]:
    return {
        "@context": "https://w3id.org/codemeta/3.0",
        "@type": "SoftwareSourceCode",
        "name": about["name"],
        "description": about["description"],
        "version": about["version"],
        "license": f"https://spdx.org/licenses/{about['license']}",
        "author": [{"@type": "Organization", "name": AUTHORS}],
        "programmingLanguage": {"@type": "ComputerLanguage", "name": "Python", "version": about["requires-python"]},
        "softwareRequirements": about["dependencies"],
        "readme": about["readme"],
    }


def as_json(content: dict[str, Any]) -> str:
    """JSON as files of the repository have it."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _dictionary(schemas: dict[str, dict[str, Any]]) -> str:
    """The data dictionary: of every kind of file its parts, of every part its fields."""
    lines = [
        "# Records: a data dictionary",
        "",
        "Made by `visionquant metadata` from `data/schemas`; a part stands once.",
    ]
    parts: dict[str, dict[str, Any]] = {}
    for name, schema in schemas.items():
        kind, place = EVIDENCE[name]
        lines += [f"- `{name}.schema.json`: [{kind.__name__}](#{kind.__name__.lower()}), `{place}`"]
        parts |= {kind.__name__: schema, **schema.get("$defs", {})}
    for name, part in parts.items():
        lines += ["", f"## {name}", "", inspect.cleandoc(part.get("description", "")).replace("``", "`")]
        if fields := part.get("properties"):
            lines += ["", "| field | type | required |", "|---|---|---|"]
            needed = part.get("required", ())
            lines += [
                f"| `{field}` | {_type(one)} | {'yes' if field in needed else ''} |" for field, one in fields.items()
            ]
    return "\n".join(lines) + "\n"


def _type(schema: dict[str, Any]) -> str:
    """A field's type in words."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if either := schema.get("anyOf", schema.get("oneOf")):
        return " or ".join(dict.fromkeys(map(_type, either)))
    if choices := schema.get("enum"):
        return ", ".join(f"`{choice}`" for choice in choices)
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "any")
    if kind == "array":
        inner: dict[str, Any] = schema.get("items") or next(iter(schema.get("prefixItems", ())), {})
        return f"list of {_type(inner)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return str(kind)
