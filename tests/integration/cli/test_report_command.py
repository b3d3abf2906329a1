"""The command report: what a person is told about their conversations, as HTML and as lines of JSON."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.config.loader import load
from events.catalogue import (
    HOLDS,
    AdoptedMessage,
    BranchSelected,
    HistoryAdopted,
    HoldAdded,
    HoldReleased,
    MessagePosted,
    MessageRedacted,
    MetadataChanged,
    Origin,
    Parameters,
    ReplyCompleted,
    ReplyFailed,
    ReplyStarted,
    SessionCreated,
    SessionDeleted,
    Usage,
    UsageTotal,
)
from events.factory import open_log
from events.log import EventLog
from events.record import Metadata
from events.schema.parts import Reasoning, Text, ToolCall, ToolResult
from tests.support.fake_console import FakeConsole, run_in_process
from tests.support.log.event_builders import created, posted, turns
from tests.support.log.media import put_sample_files
from tests.support.log.sample_events import EVERY_EVENT, IMAGE
from tests.support.service import ROOT, environment

SESSION, FORK, ERASED, OTHER = (f"00000000-0000-4000-8000-00000000000{n}" for n in "abcd")
EVIL = '</div><script>alert(1)</script><img src=x onerror="alert(1)">" \' \x1b[31m \u202e안녕'
WHO = Metadata(actor="mina", request_id="r1")
HTML_VOID = {"meta", "img", "br", "hr"}


class Checker(HTMLParser):
    """Checks that all elements are closed in order, and collects elements and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in HTML_VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def checked(html: str) -> Checker:
    """The document, which is well formed and neither loads nor runs anything."""
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    names = [dict_["id"] for _, dict_ in checker.elements if "id" in dict_]
    assert len(set(names)) == len(names)
    for tag, attributes in checker.elements:
        assert tag not in ("script", "iframe", "object", "embed", "link", "form", "base", "svg")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            target = attributes.get(name)
            if target is not None and target.startswith("#"):
                assert target[1:] in names, f"{target} leads nowhere"
            elif target is not None:
                assert target.startswith("data:image/" if tag == "img" else "data:application/json;base64,")
    policy = next(one["content"] for _, one in checker.elements if one.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    levels = [int(tag[1]) for tag, _ in checker.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), "no level is skipped"
    return checker


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real_part)])
async def console(request: pytest.FixtureRequest, tmp_path: Path) -> FakeConsole:
    settings = environment(tmp_path, "http://127.0.0.1:9")
    if request.param == "postgres":
        settings["DATABASE_URL"] = await request.getfixturevalue("postgres").schema()
    return FakeConsole(load({}, environment=settings, folder=ROOT).settings)


async def opened(console: FakeConsole) -> EventLog:
    return await open_log(console.settings.database.place, read_only=False)


async def fill(console: FakeConsole) -> None:
    """A session with parts and two branches, a fork of it, an erased session, and one of another user."""
    log = await opened(console)
    await put_sample_files(log)
    answer = (Reasoning(EVIL), Text("seen"), ToolCall("c1", EVIL, '{"a": "<b>"}'))
    events = [
        SessionCreated("mina", {"user_id": "42", EVIL: EVIL}, 60, title=EVIL, system_prompt=EVIL),
        MessagePosted("m1", None, "user", EVIL, "r1", parts=(Text(EVIL), IMAGE)),
        ReplyStarted("r1", "m1", "node", "openai", EVIL, Parameters(temperature=0.5), ("m1",)),
        ReplyCompleted("r1", "seen", "tool_calls", EVIL, 1_500_000, Usage(12, 34, 46), parts=answer),
        MessagePosted("m2", "r1", "tool", "", parts=(ToolResult("c1", (Text(EVIL),), is_error=True),)),
        MessagePosted("m3", "r1", "user", "other branch", "r3"),
        ReplyStarted("r3", "m3", "node", "midm", "midm", Parameters(), ("m1", "r1", "m3")),
        ReplyFailed("r3", "half", "upstream", EVIL),
        BranchSelected("m2"),
        MetadataChanged({"user_id": "42"}, title=EVIL),
    ]
    recorded = await log.append(SESSION, 0, events, WHO)
    adopted = AdoptedMessage("m1", None, "user", "complete", recorded[1].position, recorded[1].recorded_at_us)
    origin = Origin(SESSION, 9, "m1")
    forked = [SessionCreated("mina", {"user_id": "42"}, 60, forked_from=origin), HistoryAdopted((adopted,))]
    await log.append(FORK, 0, forked, WHO)
    await log.append(ERASED, 0, [created("mina", user_id="42"), *turns(1)], WHO)
    await log.erase(ERASED, 4, SessionDeleted("requested", owner="mina"), Metadata(cause="erasure"))
    await log.append(OTHER, 0, [created("jun", user_id="43"), posted("secret of jun")], WHO)
    await log.close()


async def report(console: FakeConsole, tmp_path: Path, *arguments: str) -> str:
    out = tmp_path / "report"
    out.unlink(missing_ok=True)
    assert await run_in_process(console, "report", *arguments, "--out", str(out)) == 0
    return out.read_text()


async def lines(console: FakeConsole, tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """The entries, whose last one attests those before it."""
    text = await report(console, tmp_path, *arguments, "--format", "ndjson")
    *body, end, _ = text.split("\n")
    found = [json.loads(line) for line in body]
    sha256 = hashlib.sha256("".join(f"{line}\n" for line in body).encode()).hexdigest()
    assert json.loads(end) == {"type": "end", "lines": len(body), "sha256": sha256}
    return found


async def test_the_lines_tell_who_said_what_when_to_which_model_on_which_branch(
    console: FakeConsole, tmp_path: Path
) -> None:
    await fill(console)
    head, session, *entries = await lines(console, tmp_path, "--session", SESSION, "--requests")
    assert head["selected_by"] == {"sessions": [SESSION]}
    assert head["totals"] == {
        "sessions": 1, "messages": 5, "replies": 2, "files": 1, "events": 10, "erased_events": 0, "redactions": 0,
    }  # fmt: skip
    assert [(one["model"], one["provider"], one["requests"]) for one in head["recipients"]] == [
        ("midm", "midm", 1), (EVIL, "openai", 1),
    ]  # fmt: skip
    assert (session["title"], session["owner"], session["metadata"]) == (EVIL, "mina", {"user_id": "42"})
    messages = [one for one in entries if one["type"] == "message"]
    assert [(one["number"], one.get("follows"), one["message_id"], one["role"]) for one in messages] == [
        (1, None, "m1", "user"), (2, 1, "r1", "assistant"), (3, 2, "m2", "tool"), (4, 2, "m3", "user"),
        (5, 4, "r3", "assistant"),
    ]  # fmt: skip
    assert [one["message_id"] for one in messages if one.get("selected")] == ["m1", "r1", "m2"]
    question, answer, *_, failed = messages
    assert (question["key"], question["request_id"], question["parts"][0]["text"]) == ("mina", "r1", EVIL)
    assert [one["type"] for one in answer["parts"]] == ["reasoning", "text", "tool_call"]
    assert answer["request"]["messages"][0] == {"role": "system", "content": EVIL}
    assert answer["usage"]["total_tokens"] == 46
    assert (failed["status"], failed["failure"], failed["parts"]) == (
        "failed", f"upstream: {EVIL}", [{"type": "text", "text": "half"}],
    )  # fmt: skip
    notes = [(one["event"], one["version"]) for one in entries if one["type"] == "note"]
    assert notes == [("session_created", 1), ("branch_selected", 9), ("metadata_changed", 10)]


async def test_a_person_is_told_of_all_sessions_forks_and_erasures_and_of_no_one_elses(
    console: FakeConsole, tmp_path: Path
) -> None:
    await fill(console)
    entries = await lines(console, tmp_path, "--owner", "mina")
    assert [one["session_id"] for one in entries if one["type"] == "session"] == [SESSION, FORK, ERASED]
    adopted = next(one for one in entries if one.get("adopted"))
    assert (adopted["session_id"], adopted["parts"][0]["text"]) == (FORK, EVIL)
    assert next(one for one in entries if one["type"] == "erased") == {
        "type": "erased", "session_id": ERASED, "first_version": 1, "last_version": 4,
        "events": {"session_created": 1, "message_posted": 1, "reply_started": 1, "reply_completed": 1},
    }  # fmt: skip
    receipt = next(one for one in entries if one["type"] == "receipt")
    assert (receipt["kind"], receipt["cause"]) == ("erasure", "erasure")
    assert (receipt["receipt"]["events_erased"], receipt["receipt"]["reason"]) == (4, "requested")
    assert len(receipt["receipt"]["digest"]) == 64
    by_metadata = await lines(console, tmp_path, "--metadata", "user_id=42")
    assert [one["session_id"] for one in by_metadata if one["type"] == "session"] == [SESSION, FORK]
    assert "secret of jun" not in json.dumps(entries)
    assert "secret of jun" not in await report(console, tmp_path, "--owner", "mina")


async def test_the_page_shows_every_text_and_runs_none(console: FakeConsole, tmp_path: Path) -> None:
    await fill(console)
    html = await report(console, tmp_path, "--owner", "mina", "--requests", "--images", "--purpose", EVIL)
    page = checked(html)
    shown = EVIL.replace("\x1b", "\\x1b")
    assert page.texts.count(shown) > 5, "titles, texts, reasoning, results and names"
    assert "\x1b" not in html
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert [one["alt"] for one in images] == [f"Image {IMAGE.name}"] * 2, "in the session and in its fork"
    assert not [tag for tag, _ in checked(await report(console, tmp_path, "--owner", "mina")).elements if tag == "img"]


async def test_the_page_says_in_words_how_sessions_were_selected(console: FakeConsole, tmp_path: Path) -> None:
    await fill(console)
    chosen = {
        f"their ids: {SESSION}, {FORK}": ["--session", SESSION, FORK],
        "the API key that they belong to: jun": ["--owner", "jun"],
        "metadata that they have: user_id is 43": ["--metadata", "user_id=43"],
        "metadata that they have or had earlier: user_id is 43": ["--metadata", "user_id=43", "--ever"],
    }
    for words, arguments in chosen.items():
        assert words in "".join(checked(await report(console, tmp_path, *arguments)).texts)
    assert console.stderr_lines[-1].endswith("1 session")


async def test_the_lines_have_the_images_that_are_asked_for_after_their_messages(
    console: FakeConsole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(console)
    entries = await lines(console, tmp_path, "--owner", "mina", "--images")
    found = [(before, one) for before, one in pairwise(entries) if one["type"] == "image"]
    assert [(one["session_id"], one["message_id"]) for _, one in found] == [(SESSION, "m1"), (FORK, "m1")]
    for message, image in found:
        assert (message["type"], message["message_id"]) == ("message", "m1")
        content = base64.b64decode(image["content"], validate=True)
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (IMAGE.sha256, image["bytes"])
        assert (image["sha256"], image["media_type"]) == (IMAGE.sha256, IMAGE.media_type)
    assert not [one for one in await lines(console, tmp_path, "--owner", "mina") if one["type"] == "image"]
    monkeypatch.setattr("chatbot.audit.report.report_pieces.IMAGES_BYTES_MAX", 2 * IMAGE.bytes - 1)
    bounded = await lines(console, tmp_path, "--owner", "mina", "--images")
    assert [one["session_id"] for one in bounded if one["type"] == "image"] == [SESSION]


async def test_every_type_of_event_has_its_place_in_a_report(console: FakeConsole, tmp_path: Path) -> None:
    log = await opened(console)
    await put_sample_files(log)
    await log.append(SESSION, 0, EVERY_EVENT, WHO)
    await log.close()
    checked(await report(console, tmp_path, "--session", SESSION, "--images"))
    assert len(await lines(console, tmp_path, "--session", SESSION)) > 10


async def test_a_session_under_a_legal_hold_says_so_also_for_metadata_that_it_had_earlier(
    console: FakeConsole, tmp_path: Path
) -> None:
    log = await opened(console)
    await log.append(SESSION, 0, [created("mina", user_id="42"), MetadataChanged({})], WHO)
    await log.append(OTHER, 0, [created("jun")], WHO)
    holds = [HoldAdded("h1", EVIL, "T-1", metadata={"user_id": "42"}), HoldAdded("h2", "over", owner="jun")]
    await log.append(HOLDS, 0, [*holds, HoldReleased("h2", "over")], WHO)
    await log.close()
    (hold,) = [one for one in await lines(console, tmp_path, "--session", SESSION, OTHER) if one["type"] == "hold"]
    assert (hold["session_id"], hold["hold_id"], hold["reason"], hold["ticket"]) == (SESSION, "h1", EVIL, "T-1")
    checked(await report(console, tmp_path, "--session", SESSION))


async def test_a_redacted_message_says_so_and_has_its_receipt(console: FakeConsole, tmp_path: Path) -> None:
    log = await opened(console)
    await log.append(SESSION, 0, [created("mina"), posted("m1")], WHO)
    redaction = MessageRedacted("m1", "privacy", ticket="T-2", events_erased=1, versions=(2,))
    await log.erase(SESSION, 2, redaction, WHO)
    await log.close()
    head, *entries = await lines(console, tmp_path, "--session", SESSION)
    assert head["totals"]["redactions"] == 1
    receipt = next(one for one in entries if one["type"] == "receipt")
    assert (receipt["kind"], receipt["receipt"]["message_id"], receipt["receipt"]["ticket"]) == (
        "redaction",
        "m1",
        "T-2",
    )
    page = await report(console, tmp_path, "--session", SESSION)
    assert "words of m1" not in page
    assert "Receipt of a redaction" in page


async def test_a_report_on_an_erased_session_says_what_is_left_and_what_cannot_be_told(
    console: FakeConsole, tmp_path: Path
) -> None:
    log = await opened(console)
    await log.append(SESSION, 0, [created("mina"), *turns(2)], WHO)
    version = (await log.read(SESSION, limit=100))[-1].version
    redaction = MessageRedacted("m1", "privacy", events_erased=1, versions=(2,))
    await log.erase(SESSION, version, redaction, WHO)
    usage = (UsageTotal("2026-01-01", EVIL, 1, 1200, 34), UsageTotal("2026-01-02", EVIL, 1, 5, 6))
    await log.erase(SESSION, version + 1, SessionDeleted("requested", owner="mina", usage=usage), WHO)
    await log.append(OTHER, 0, [created("jun")], WHO)
    await log.close()
    head, *_ = await lines(console, tmp_path, "--session", SESSION)
    assert (head["recipients"], head["totals"]["redactions"], head["erased_requests"]) == ([], 1, 2)
    assert head["erased_usage"] == [{"model": EVIL, "replies": 2, "prompt_tokens": 1205, "completion_tokens": 40}]
    page = checked(await report(console, tmp_path, "--session", SESSION))
    said = "".join(page.texts)
    assert "No model was sent messages" not in said
    assert "Requests to models whose content is erased: 2. Which servers received them" in said
    assert "1,205" in page.texts
    assert "its content is erased" in said
    assert "Erased session" in page.texts
    none = "".join(checked(await report(console, tmp_path, "--session", OTHER)).texts)
    assert "No model was sent messages" in none


async def test_a_report_proves_its_sessions_against_a_checkpoint(console: FakeConsole, tmp_path: Path) -> None:
    await fill(console)
    key, note = tmp_path / "audit.key", tmp_path / "checkpoint.txt"
    await run_in_process(console, "keygen", str(key))
    console.stdout_lines.clear()
    await run_in_process(console, "checkpoint", "--key", str(key))
    note.write_text(console.stdout_lines[-1] + "\n")
    entries = await lines(console, tmp_path, "--owner", "mina", "--checkpoint", str(note))
    proofs = [one for one in entries if one["type"] == "proof"]
    assert [(one["session_id"], one["first_version"], one["last_version"]) for one in proofs] == [
        (SESSION, 1, 10), (FORK, 1, 2), (ERASED, 1, 5),
    ]  # fmt: skip
    for one in proofs:
        proof = tmp_path / "proof.json"
        proof.write_text(json.dumps(one["proof"]))
        assert await run_in_process(console, "verify", "--proof", str(proof), "--key", f"{key}.pub") == 0
    page = checked(await report(console, tmp_path, "--owner", "mina", "--checkpoint", str(note)))
    links = [one for tag, one in page.elements if tag == "a" and "download" in one]
    assert [one["download"] for one in links] == [f"proof-{one}.json" for one in (SESSION, FORK, ERASED)]


async def test_a_report_is_refused_if_nothing_is_found_or_a_file_would_be_lost(
    console: FakeConsole, tmp_path: Path
) -> None:
    await fill(console)
    out = tmp_path / "report.html"
    with pytest.raises(CommandFailed, match="no session was found"):
        await run_in_process(console, "report", "--owner", "nobody", "--out", str(out))
    with pytest.raises(CommandFailed, match="there is no session"):
        await run_in_process(console, "report", "--session", "x", "--out", str(out))
    out.write_text("mine")
    with pytest.raises(UsageError, match="never writes over"):
        await run_in_process(console, "report", "--owner", "mina", "--out", str(out))
    assert out.read_text() == "mine"
