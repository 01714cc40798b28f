"""The server's /docs: its OpenAPI document as one page without scripts, that asks no other host for anything.

FastAPI's own page takes Swagger UI from a content delivery network: nothing is shown without a connection, and whoever
opens it tells a third party of it. An image can be sent from the page, by a plain form.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

# Whatever stands on the page, a browser may load nothing and send forms to this server alone.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; form-action 'self'"
STYLE = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "table{border-collapse:collapse;margin:.5rem 0;overflow-wrap:anywhere}th{overflow-wrap:normal}"
    "td,th{border:1px solid #8888;padding:.2rem .6rem;text-align:left}"
    "h2{margin-top:2rem}code{font-size:.95em}"
)


def page(document: dict[str, Any]) -> str:
    """HTML of an OpenAPI document (version 3.1, as FastAPI makes it)."""
    info = document["info"]
    routes = [_route(path, verb, one) for path, verbs in document["paths"].items() for verb, one in verbs.items()]
    schemas = [_schema(name, one) for name, one in document.get("components", {}).get("schemas", {}).items()]
    title = escape(info["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><style>{STYLE}</style>'
        f"</head><body><h1>{title}</h1><p>{escape(info.get('description', ''))} The same for programs: "
        f'<a href="openapi.json">openapi.json</a>.</p>{"".join(routes)}<h2>Schemas</h2>{"".join(schemas)}</body></html>'
    )


def _route(path: str, verb: str, found: dict[str, Any]) -> str:
    parts = [f"<h2><code>{verb.upper()} {escape(path)}</code></h2><p>{escape(found.get('description', ''))}</p>"]
    parameters = found.get("parameters", ())
    if parameters:
        rows = [
            (escape(one["name"]), escape(one["in"]), _kind(one["schema"]), escape(one.get("description", "")))
            for one in parameters
        ]
        parts.append(_table(("parameter", "in", "type", ""), rows))
    bodies = found.get("requestBody", {}).get("content", {})
    if bodies:
        kinds = [(escape(media), _kind(one.get("schema", {}))) for media, one in bodies.items()]
        parts.append(_table(("body", "type"), kinds))
    if "multipart/form-data" in bodies:
        parts.append(
            f'<form method="post" action="{escape(path.lstrip("/"))}" enctype="multipart/form-data">'
            '<input type="file" name="image" accept="image/jpeg,image/png" required aria-label="image"> '
            "<button>Send</button></form>"
        )
    answers = [
        (escape(status), escape(one.get("description", "")), " or ".join(_answers(one)) or "nothing")
        for status, one in found["responses"].items()
    ]
    return "".join(parts) + _table(("status", "", "answer"), answers)


def _answers(response: dict[str, Any]) -> list[str]:
    return [f"{_kind(one.get('schema', {}))} ({escape(media)})" for media, one in response.get("content", {}).items()]


def _schema(name: str, found: dict[str, Any]) -> str:
    needed = found.get("required", ())
    rows = [
        (f"<code>{escape(key)}</code>", _kind(one), "always" if key in needed else "where there is one")
        for key, one in found.get("properties", {}).items()
    ]
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(found.get("description", ""))}</p>' + _table(
        ("key", "type", ""), rows
    )


def _kind(schema: dict[str, Any]) -> str:
    """A type in words: a link for a named schema, and what bounds a plain one."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    bounds = [f"{key} {schema[key]}" for key in ("format", "pattern", "minLength", "maxLength") if key in schema]
    return escape(", ".join([str(schema.get("type", "anything")), *bounds]))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{one}</th>" for one in heads)
    return (
        f"<table><tr>{head}</tr>" + "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in rows) + "</table>"
    )
