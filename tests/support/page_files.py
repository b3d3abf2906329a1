"""The chat page's modules as text: which import which."""

import posixpath
import re

from chatbot.web.assets import Assets

_static_import = re.compile(
    r"""(?:^|[;}\s])(?:import|export)(?:[\s{*][^'"()]*?\bfrom)?\s*["'](\.[^"']+)["']""", re.MULTILINE
)
_dynamic_import = re.compile(r"""\b(?:import|importModule|createLateModule)\(\s*["'](\.[^"']+)["']\s*[,)]""")
_linked = re.compile(r'<(link|script)\b[^>]*\b(?:href|src)="\{assets\}/([^"]+)"[^>]*>')
_comment = re.compile(r"^\s*(?://|\*|/\*).*$", re.MULTILINE)


def source_of(assets: Assets, path: str) -> str:
    """A module's text without the lines that are comments."""
    return _comment.sub("", assets.files[path].body.decode())


def imports_of(assets: Assets, path: str) -> list[str]:
    """The modules that a module imports when it is loaded."""
    return _resolve(path, _static_import.findall(source_of(assets, path)))


def later_imports_of(assets: Assets, path: str) -> list[str]:
    """The modules that a module imports when it needs them."""
    return _resolve(path, _dynamic_import.findall(source_of(assets, path)))


def links_of(assets: Assets) -> dict[str, list[str]]:
    """What the index itself loads, by the kind of its tag: stylesheet, icon, modulepreload, module or script."""
    found: dict[str, list[str]] = {}
    for tag in _linked.finditer(assets.index):
        relation = re.search(r'(?:rel|type)="([^"]+)"', tag[0])
        found.setdefault(relation[1] if relation else "script", []).append(posixpath.join("page", tag[2]))
    return found


def first_load(assets: Assets) -> list[str]:
    """All modules that are loaded before the page works, in order of discovery; without the texts."""
    found: list[str] = []
    waiting = list(links_of(assets)["module"])
    while waiting:
        path = waiting.pop(0)
        if path not in found:
            found.append(path)
            waiting += imports_of(assets, path)
    return found


def _resolve(path: str, imported: list[str]) -> list[str]:
    return [posixpath.normpath(posixpath.join(posixpath.dirname(path), one)) for one in imported]


def languages(assets: Assets) -> list[str]:
    """The modules with the texts of a language each."""
    return sorted(path for path in assets.files if path.startswith("page/texts/"))
