"""What the model says to clients of OpenAI's API in tests: chosen by the newest message, so that a client's program is
written as its users would write it, and tells the model server nothing.
"""

from collections import Counter
from typing import Any

from tests.support.model.model_script import Request, Script

BUSY, DOWN = "Be busy once.", "Be down once."


def call(index: int, city: str) -> dict[str, Any]:
    """A call of the function `weather`, as a stream begins it."""
    return {"index": index, "id": f"call_{city}", "type": "function", "function": {"name": "weather", "arguments": ""}}


def argument(index: int, text: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


ONE_CALL = (
    {"content": "Let me look."},
    {"tool_calls": [call(0, "Seoul")]},
    argument(0, '{"city":'),
    argument(0, ' "Seoul"}'),
)
TWO_CALLS = (
    {"tool_calls": [call(0, "Seoul")]},
    argument(0, '{"city": "Seoul"}'),
    {"tool_calls": [call(1, "Busan")]},
    argument(1, '{"city": "Busan"}'),
)
THINKING = (
    {"reasoning_content": "Six "},
    {"reasoning_content": "sevens."},
    {"content": "It is "},
    {"content": "42."},
)
SCRIPTS = {
    "How warm is it in Seoul?": Script(deltas=ONE_CALL, finish_reason="tool_calls"),
    "Compare Seoul and Busan.": Script(deltas=TWO_CALLS, finish_reason="tool_calls"),
    "What is 6 times 7?": Script(deltas=THINKING, reasoning_tokens=2),
    "What is 15 * 37? Show your reasoning.": Script(deltas=THINKING, reasoning_tokens=2),
    "What is 6 times 7, as JSON?": Script(pieces=('{"result":', " 42}")),
    "What is in this picture?": Script(pieces=("A ", "dot.")),
    "Say something forbidden.": Script(deltas=({"refusal": "I will "}, {"refusal": "not."})),
    "Go on until the limit.": Script(pieces=("On ", "and"), finish_reason="length"),
    "Go on without me.": Script(pieces=("I ", "do ", "go ", "on."), delay_s=0.05),
    "Break off.": Script(pieces=("Half ", "a "), then="cut"),
    "Never end.": Script(pieces=("Once ", "upon "), then="silence"),
}
FAILURES = {
    BUSY: Script(status=429, error="too many requests", headers={"Retry-After": "1"}),
    DOWN: Script(status=503, error="overloaded"),
}


def text_of(message: Any) -> str:
    """The text of a message, whose content may be a list of parts."""
    content = message["content"]
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return str(content or "")


class ScenarioModel:
    """`choose` for a ModelServer. Counts how often each question was asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def choose(self, request: Request) -> Script | None:
        """None: the server's own script, which repeats the question."""
        messages = request.body["messages"]
        results: list[str] = []
        while messages and messages[-1]["role"] == "tool":
            results.insert(0, text_of(messages[-1]))
            messages = messages[:-1]
        if results == ["Go on without me."]:
            return SCRIPTS[results[0]]
        if results:
            return Script(pieces=("There it is ", f"{' and '.join(results)}."))
        question = text_of(messages[-1])
        self.asked[question] += 1
        for beginning, failure in FAILURES.items():
            if question.startswith(beginning) and self.asked[question] == 1:
                return failure
        if request.body.get("tool_choice") == "required":
            (name,) = [tool["function"]["name"] for tool in request.body["tools"]]
            function = {"name": name, "arguments": '{"location": "San Francisco"}'}
            required = {"index": 0, "id": "call_1", "type": "function", "function": function}
            return Script(deltas=({"tool_calls": [required]},), finish_reason="tool_calls")
        return SCRIPTS.get(question)
