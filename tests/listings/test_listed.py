"""claims.yaml and the tests of the listings name each other."""

import ast
from pathlib import Path

import tiny
from listed import behaviours

HERE = Path(__file__).parent


def functions_of(path: Path) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name: node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def all_tests() -> dict[str, ast.FunctionDef]:
    """Every test of a listing, as pytest names it."""
    return {
        f"{path.relative_to(tiny.ROOT).as_posix()}::{name}": node
        for path in sorted(HERE.glob("test_*.py"))
        if path != Path(__file__)
        for name, node in functions_of(path).items()
    }


def test_every_behaviour_is_shown_by_a_test_that_says_so() -> None:
    tests = all_tests()
    assert behaviours()
    for name, claim in behaviours().items():
        assert claim.get("outcome") in ("works", "fails"), name
        assert claim.get("why"), name
        assert claim.get("shown_by") in tests, name
        asked = [
            node.args[0].value
            for node in ast.walk(tests[claim["shown_by"]])
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "outcome"
            if isinstance(node.args[0], ast.Constant)
        ]
        assert asked == [name], f"{claim['shown_by']} asks for the outcome of {asked}"


def test_every_test_of_a_listing_is_named_by_one_claim() -> None:
    shown = [claim["shown_by"] for claim in behaviours().values()]
    assert sorted(shown) == sorted(all_tests())
