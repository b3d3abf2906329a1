"""The table of problem types names every problem that the service can answer with, and no other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import chatbot.api
from chatbot.api.problem_types import PROBLEM_TYPES
from chatbot.api.problems import CAUSE_UNKNOWN, CAUSES, STATUSES
from chatbot.llm.provider import LlmError

FOUND_AT_RUN_TIME = {"http-error"}  # its status and title are those of aiohttp's exception

Kind = tuple[str, int, str]  # name, status, title


def constants(call: ast.Call) -> dict[str, object]:
    """A call's constant arguments: by name, or by position as "0", "1" and so on."""
    given = [(str(number), one) for number, one in enumerate(call.args)]
    given += [(one.arg or "", one.value) for one in call.keywords]
    return {name: one.value for name, one in given if isinstance(one, ast.Constant)}


def written() -> Iterator[Kind]:
    """The problems that the code of the API makes by name."""
    for path in Path(chatbot.api.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            found = constants(node)
            if node.func.id == "Problem" and "1" in found and "0" in found:
                yield str(found["1"]), int(str(found["0"])), str(found["2"])
            elif node.func.id == "RequestFault" and "kind" in found:
                yield str(found["kind"]), int(str(found["status"])), str(found["title"])


def tabled() -> Iterator[Kind]:
    for status, name, title in STATUSES.values():
        yield name, status, title
    for cause, (status, title) in CAUSES.items():
        yield cause.replace("_", "-"), status, title


def test_every_problem_is_in_the_table_with_its_status_and_title() -> None:
    known = {(name, one.status, one.title) for name, one in PROBLEM_TYPES.items() if name not in FOUND_AT_RUN_TIME}
    made = {*written(), *tabled()}
    assert len(set(written())) > 15
    assert made == known


def test_every_error_of_the_model_has_a_type() -> None:
    pending, causes = [LlmError], set()
    while pending:
        error = pending.pop()
        causes.add(error.cause)
        pending += error.__subclasses__()
    assert {cause.replace("_", "-") for cause in causes} <= PROBLEM_TYPES.keys()
    assert CAUSE_UNKNOWN[0] == 502, "a cause that a newer node recorded: its page is that node's"
