"""The product's import graph, read from its source: which module imports which when it is imported."""

import ast
from collections.abc import Set
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("events", "projections", "chatbot")


def source_files() -> list[Path]:
    return [ROOT / "run.py", *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Module -> the product's modules that its import statements name. Imports for type checkers only do not count,
    imports inside functions do: what a function imports late, it still depends on."""
    paths = {module_name(path): path for path in source_files()}
    return {name: _imports(ast.parse(path.read_text()), paths.keys()) - {name} for name, path in paths.items()}


def _imports(tree: ast.Module, known: Set[str]) -> set[str]:
    found: set[str] = set()
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in named if name in known} or ({node.module} & known)
        pending.extend(ast.iter_child_nodes(node))
    return found


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """The longest way from a module along imports. Raises ValueError on a cycle."""
    under_way: set[str] = set()

    @cache
    def chain(name: str) -> tuple[str, ...]:
        if name in under_way:
            raise ValueError(f"an import cycle goes through {name}")
        under_way.add(name)
        chains: list[tuple[str, ...]] = [chain(target) for target in sorted(graph[name])]
        longest = max(chains, key=_length, default=())
        under_way.discard(name)
        return (name, *longest)

    longest: tuple[str, ...] = ()
    for name in sorted(graph):
        longest = max(longest, chain(name), key=_length)
    return list(longest)


def _length(chain: tuple[str, ...]) -> int:
    return len(chain)
