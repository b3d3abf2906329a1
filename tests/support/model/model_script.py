"""What a scripted model server answers, and how its two protocols put that on the wire."""

import json
import re
from typing import Any, Literal

from msgspec import Struct

Ending = Literal["finish", "no_done", "end", "cut", "reset", "silence", "error", "malformed", "long_line", "heartbeats"]


class Script(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one request is answered: the pieces, and `then` what happens after the last of them.

    `then`: finish (the whole ending) | no_done (as finish, without [DONE]) | end (the body ends, nothing said) |
    cut (connection closed inside the body) | reset (the same, with a TCP reset) | silence (nothing more, for ever) |
    error (an error object in the stream) | malformed (a line that is no JSON) | long_line (2 MB with no end of line) |
    heartbeats (for ever).
    """

    pieces: tuple[str, ...] | None = None  # None: 'You said: <last user message>', word by word
    deltas: tuple[dict[str, Any], ...] = ()  # in the protocol of OpenAI: sent as they are, instead of the pieces
    first_delay_s: float = 0.0  # before the first piece, added to delay_s
    delay_s: float | None = None  # before each piece; None: the server's own
    hold_after: int | None = None  # after that many pieces wait until server.release()
    stepwise: bool = False  # each piece waits for a server.step() of its own
    then: Ending = "finish"
    end_delay_s: float = 0.0  # before each frame of the ending, and before the end of the body
    finish_reason: str = "stop"
    usage: bool = True  # tell the tokens
    reasoning_tokens: int = 0  # told among those of the completion; 0: not told
    error: str = "scripted failure"  # the message of then="error", and of a status without a body
    status: int = 200  # 0: the connection is closed without an answer
    headers: dict[str, str] = {}
    body: Any = None  # answer this JSON at once; a str goes out as it is, labelled as JSON
    plain_json: bool = False  # answer a request for a stream with one JSON document
    raw: str | None = None  # send exactly this as the body of the event stream, instead of the pieces


class Request(Struct):
    """One request for a reply, as the server saw it. Times are of time.monotonic()."""

    path: str
    headers: dict[str, str]
    body: Any
    received_at: float
    pieces_sent: int = 0
    ended_at: float | None = None
    aborted_at: float | None = None  # the client went away before the answer's end


def split_into_chunks(script: Script, body: Any) -> tuple[str, ...]:
    if script.deltas:
        return tuple(str(delta.get("content") or "") for delta in script.deltas)
    if script.pieces is not None:
        return script.pieces
    said = [message["content"] for message in body.get("messages", []) if message.get("role") == "user"]
    return tuple(re.findall(r"\S+\s*", f"You said: {said[-1] if said else ''}"))


def count_usage(body: Any, pieces: tuple[str, ...]) -> dict[str, Any]:
    """A word of the prompt and a piece of the reply count as a token each."""
    contents = (message["content"] for message in body.get("messages", []))
    prompt = sum(len(content.split()) for content in contents if isinstance(content, str))
    return {"prompt_tokens": prompt, "completion_tokens": len(pieces), "total_tokens": prompt + len(pieces)}


def event(document: Any) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


def joined(deltas: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The members besides `content` of the message that `deltas` make together."""
    texts: dict[str, str] = {}
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        for name in {"reasoning_content", "reasoning", "refusal"} & set(delta):
            texts[name] = texts.get(name, "") + delta[name]
        for piece in delta.get("tool_calls", ()):
            call = calls.setdefault(piece["index"], {**piece, "function": {**piece["function"], "arguments": ""}})
            call["function"]["arguments"] += piece["function"].get("arguments", "")
    return texts | ({"tool_calls": [calls[index] for index in sorted(calls)]} if calls else {})


class Midm:
    """The frames of POST /chat and /chat/stream."""

    def __init__(self, script: Script, request: Request, model: str) -> None:
        self.script = script
        self.pieces = split_into_chunks(script, request.body)
        self._usage = count_usage(request.body, self.pieces) if script.usage else None
        self._accumulated = ""

    def whole(self) -> Any:
        return {"response": "".join(self.pieces), "usage": self._usage}

    def start(self) -> str:
        return event({"type": "start", "message": "Stream started"})

    def piece(self, number: int) -> str:
        self._accumulated += self.pieces[number]
        return event(
            {
                "type": "chunk",
                "content": self.pieces[number],
                "accumulated": self._accumulated,
                "token_count": number + 1,
            }
        )

    def finish(self) -> list[str]:
        return [event({"type": "complete", "full_response": "".join(self.pieces), "total_tokens": len(self.pieces)})]

    def error(self) -> str:
        return event({"type": "error", "message": self.script.error})


class OpenAi:
    """The frames of POST /v1/chat/completions."""

    def __init__(self, script: Script, request: Request, model: str) -> None:
        self.script = script
        self.pieces = split_into_chunks(script, request.body)
        self._usage = count_usage(request.body, self.pieces) if script.usage else None
        if self._usage is not None and script.reasoning_tokens:
            self._usage["completion_tokens_details"] = {"reasoning_tokens": script.reasoning_tokens}
        self._usage_wanted = bool((request.body.get("stream_options") or {}).get("include_usage"))
        self._model = request.body.get("model") or model

    def _chunk(self, delta: Any, finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return event({"object": "chat.completion.chunk", "model": self._model, "choices": [choice]})

    def whole(self) -> Any:
        message = {"role": "assistant", "content": "".join(self.pieces), **joined(self.script.deltas)}
        return {
            "object": "chat.completion",
            "model": self._model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.script.finish_reason}],
            "usage": self._usage,
        }

    def start(self) -> str:
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, number: int) -> str:
        return self._chunk(self.script.deltas[number] if self.script.deltas else {"content": self.pieces[number]})

    def finish(self) -> list[str]:
        frames = [self._chunk({}, self.script.finish_reason)]
        if self._usage_wanted and self._usage:
            usage: Any = {"object": "chat.completion.chunk", "model": self._model, "choices": [], "usage": self._usage}
            frames.append(event(usage))
        return frames

    def error(self) -> str:
        return event({"error": {"message": self.script.error, "type": "server_error", "code": 500}})
