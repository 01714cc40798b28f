"""YAML 1.2, as DVC reads it: one reader for every YAML file of the study.

PyYAML's own rules are those of YAML 1.1: there ``5e-05``, which DVC writes into params.yaml, is text, ``off`` is false,
and of two rows of one name the second wins. Its fast parser stays; the rules are those of DVC's ``ruamel.yaml``.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from visionquant.core.errors import StudyError

_TAG = "tag:yaml.org,2002:"
# The spellings of each type.
_PLAIN = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"(?=[-+0-9])[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9_]+)",
    "float": r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.[0-9_]+(?:[eE][-+][0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
    "null": r"~|null|Null|NULL|",
    "merge": r"<<",
    "timestamp": r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{2}?-[0-9]{2}?(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}"
    r"(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?",
}
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BASE):
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 a class attribute in PyYAML too

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node).replace("_", "")
        return int(text, 0 if re.match("[-+]?0[box]", text) else 10)  # 010 is ten


for _name, _spellings in _PLAIN.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_spellings})$"), None)
_Loader.add_constructor(_TAG + "int", _Loader.construct_yaml_int)


def read(path: Path, named: str) -> Any:
    """The value in a YAML file; ``named`` is what messages call it.

    Raises:
        StudyError: it can't be read, is no YAML, or a key stands in it twice; says at which lines.
    """
    restore = "restore it from git"
    try:
        return parse(path.read_text(encoding="utf-8-sig"), named, restore)
    except OSError as error:
        raise StudyError(named, error.strerror or "unreadable", restore) from None
    except UnicodeDecodeError:
        raise StudyError(named, "unreadable: no UTF-8 text", f"save it as UTF-8, or {restore}") from None


def parse(text: str, named: str, otherwise: str) -> Any:
    """The value that a YAML text stands for; see :func:`read`. ``otherwise`` is what to do but to mend it."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        for key, first, second in _doubled(node, (), set()):
            raise StudyError(f"{named}: {key}", f"stands there twice, in lines {first} and {second}", "keep one")
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise StudyError(named, f"not YAML{line}", f"mend it there, or {otherwise}") from None


def _doubled(node: yaml.Node | None, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[str, int, int]]:
    """Every key that stands twice in one mapping, with both lines; an alias is looked at once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _doubled(item, (*path, str(number)), seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            name = (key.tag, str(key.value))
            if name in lines:
                yield ".".join((*path, name[1])), lines[name], key.start_mark.line + 1
            lines[name] = key.start_mark.line + 1
            yield from _doubled(value, (*path, name[1]), seen)
