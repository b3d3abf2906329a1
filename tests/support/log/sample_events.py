"""One event of every type, with every field set, for whatever must hold for all of them."""

import hashlib

from events.catalogue import (
    HOLDS,
    KEYS,
    WITNESS,
    AdoptedMessage,
    BranchSelected,
    CheckpointWitnessed,
    ContentErased,
    ConversationName,
    Event,
    HistoryAdopted,
    HoldAdded,
    HoldReleased,
    HoldsForgotten,
    KeptEvent,
    KeyAdded,
    KeyRevoked,
    KeyRotated,
    MessageCopied,
    MessagePosted,
    MessageRedacted,
    MessageWithdrawn,
    MetadataChanged,
    Origin,
    Parameters,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    ReplySettings,
    ReplyStarted,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
    SessionRead,
    SessionViewed,
    ToolCallsClosed,
    Usage,
    UsageTotal,
)
from events.record import Metadata
from events.schema.hold_events import Hold
from events.schema.parameters import ContextLeftOut, ResponseOptions
from events.schema.parts import Media, Reasoning, Redacted, Refusal, Text, ToolCall, ToolResult

ASKED = Metadata(actor="tester", request_id="request-1")
PARAMETERS = Parameters(
    max_new_tokens=64, temperature=0.7, do_sample=True, top_p=0.9, stop=("\n\n", "끝"), seed=7, model="small"
)
USAGE = Usage(prompt_tokens=12, completion_tokens=34, total_tokens=46)
USED = Usage(12, 34, 46, reasoning_tokens=20, cached_tokens=8)
TOTALS = (UsageTotal(day="2025-01-31", model="small", replies=2, prompt_tokens=24, completion_tokens=68),)
ASKED_FOR = Parameters(
    temperature=1e-5,
    tools=[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
    tool_choice={"type": "function", "function": {"name": "weather"}},
    parallel_tool_calls=False,
    response_format={"type": "json_object"},
    reasoning_effort="low",
    extra_body={"top_k": 40},
    send_reasoning=True,
    instructions="Be kind.",
    whole_context=True,
    response=ResponseOptions(
        delta_rule=1,
        input_messages=2,
        previous_response_id="resp_" + "0" * 64,
        in_conversation=True,
        background=True,
        is_stored=False,
        others={"metadata": {"topic": "weather"}},
    ),
)
IMAGE_BYTES = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
IMAGE = Media(hashlib.sha256(IMAGE_BYTES).hexdigest(), "image/png", len(IMAGE_BYTES), "바다.png")
ANSWER = (
    Reasoning('A "thought" ],', duration_us=812_000),
    Text("Let me "),
    Refusal("I cannot see pictures."),
    Text("look. 안녕"),
    ToolCall(call_id="call_1", name="weather", arguments='{"city":"Seoul"}'),
)

EVENTS_WITH_PARTS: tuple[Event, ...] = (
    MessagePosted(
        message_id="m5",
        parent_id="m1",
        role="user",
        content="What is this?",
        reply_id="r5",
        parameters=ASKED_FOR,
        node="http://10.0.0.5:8081#0123abcd",
        parts=(Text("What is"), IMAGE, Text(" this?")),
    ),
    ReplyStarted(
        reply_id="r5",
        parent_id="m5",
        node="node-1",
        provider="openai",
        model="small",
        parameters=ASKED_FOR,
        context_ids=("m5",),
        context_left_out=ContextLeftOut(3, "tokens", size_tokens=4096, estimated_tokens=3000, media=1),
    ),
    ReplyProgressed(reply_id="r5", offset=9, text='{"ci', part=4, kind="tool_call", call_id="call_1", name="weather"),
    ReplyCompleted(
        reply_id="r5",
        content="Let me look. 안녕",
        finish_reason="tool_calls",
        model="small",
        duration_us=900_000,
        usage=USED,
        parts=ANSWER,
    ),
    MessagePosted(
        message_id="m6",
        parent_id="r5",
        role="tool",
        content="",
        reply_id="r6",
        parts=(
            ToolResult(call_id="call_1", parts=(Text("21 °C"), IMAGE)),
            ToolResult(call_id="call_2", parts=(), is_error=True),
        ),
    ),
    ReplyFailed(reply_id="r6", content="", cause="llm_failed", parts=(Reasoning("Hm"),)),
    ReplyCancelled(
        reply_id="r7",
        content="Hi",
        cause="client",
        parts=(Reasoning("Hm"), Text("Hi")),
        usage=USED,
        model="small",
        counted_as="small",
    ),
    ReplyInterrupted(
        reply_id="r8",
        content="Hi",
        cause="crash",
        parts=(Text("Hi"), ToolCall(call_id="c", name="f", arguments='{"a":')),
        usage=USED,
        model="small",
        counted_as="small",
    ),
    ToolCallsClosed(
        reply_id="r5", call_ids=("call_1",), reason="superseded", idempotency_key="key-6", fingerprint="6" * 64
    ),
    HistoryAdopted(
        messages=(AdoptedMessage("r5", "m5", "assistant", "complete", 9, 1_738_000_002_000_000, None, "open"),)
    ),
    MessageCopied(message_id="r5", role="assistant", content="Let me look. 안녕", parts=ANSWER),
)

EVERY_EVENT: tuple[Event, ...] = (
    SessionCreated(
        owner="alice",
        metadata={"topic": "바다", "n": 1},
        timeout_s=86_400,
        title="Sea",
        system_prompt="Be brief.",
        forked_from=Origin(session_id="elsewhere", version=9, message_id="m0"),
        idempotency_key="key-0",
        fingerprint="0" * 64,
        parameters=Parameters(temperature=0.2, model="large"),
        kind="stateless",
        named_by=ConversationName("x-session-id", "대화 1"),
    ),
    MetadataChanged(
        metadata={"topic": "산", "deep": {"list": [1, None, True]}},
        title="Mountain",
        settings=ReplySettings("Be kind.", Parameters(max_new_tokens=9, stop=("끝",))),
        pinned=True,
    ),
    SessionAccessed(idempotency_key="key-4", fingerprint="4" * 64),
    MessagePosted(
        message_id="m1",
        parent_id="m0",
        role="user",
        content="안녕하세요 👋\n\u2028\0 <script>",
        reply_id="r1",
        parameters=PARAMETERS,
        idempotency_key="key-1",
        fingerprint="f" * 64,
        node="http://10.0.0.5:8081#0123abcd",
        imported=True,
        client_id="질문-1",
        reply_client_id="답-1",
    ),
    ReplyStarted(
        reply_id="r1",
        parent_id="m1",
        node="node-1",
        provider="midm",
        model="small",
        parameters=PARAMETERS,
        context_ids=("m0", "m1"),
        attempt=2,
        joined=True,
        counted_as="small",
    ),
    ReplyProgressed(reply_id="r1", offset=3, text="반갑"),
    ReplyCompleted(
        reply_id="r1",
        content="반갑습니다",
        finish_reason="stop",
        model="small",
        duration_us=1_500_000,
        usage=USAGE,
        time_to_first_token_us=80_000,
        counted_as="small",
        finish_detail="end_turn",
        refused_parameters=("stream_options", "temperature"),
        server="gpu-1",
        provider="openai",
    ),
    ReplyFailed(
        reply_id="r2",
        content="Hal",
        cause="timeout",
        detail="no token for 30 s",
        duration_us=30_000_000,
        finish_detail="network_error",
        usage=USAGE,
        model="small",
        counted_as="small",
    ),
    ReplyCancelled(
        reply_id="r3", content="Hello", cause="client", duration_us=10, idempotency_key="key-3", fingerprint="3" * 64
    ),
    ReplyInterrupted(reply_id="r4", content="Hel", cause="shutdown", duration_us=20),
    BranchSelected(message_id="m1", idempotency_key="key-5", fingerprint="5" * 64),
    ReplyRequested(
        reply_id="r4",
        parent_id="m1",
        parameters=PARAMETERS,
        attempt=2,
        idempotency_key="key-2",
        fingerprint="2" * 64,
        node="http://10.0.0.5:8081#0123abcd",
        reply_client_id="답-2",
    ),
    HistoryAdopted(
        messages=(
            AdoptedMessage("m0", None, "user", "complete", 3, 1_738_000_000_000_000),
            AdoptedMessage("r0", "m0", "assistant", "cancelled", 7, 1_738_000_001_000_000, model="small"),
        )
    ),
    MessageCopied(
        message_id="r0",
        role="assistant",
        content="거기",
        finish_reason="stop",
        model="small",
        usage=USAGE,
        finish_detail="eos",
        imported=True,
        duration_us=1_500_000,
        time_to_first_token_us=20_000,
    ),
    ContentErased(reason="asked by its owner", events_erased=11, timeout_s=86_400, owner="alice", usage=TOTALS),
    *EVENTS_WITH_PARTS,
    MessageRedacted(
        message_id="m9",
        reason_code="subject-request",
        part=0,
        ticket="DSR-9",
        events_erased=1,
        versions=(900,),
        kept=(
            KeptEvent(
                900, 2, '{"type":"message_copied","parts":[],"content":"","message_id":"m9","role":"user"}', "c2FsdA=="
            ),
        ),
        files=(IMAGE.sha256,),
    ),
    MessageCopied(
        message_id="m10",
        role="assistant",
        content="",
        parts=(Redacted("tool_call", "subject-request", "call_1", "weather"), Redacted("text", "subject-request")),
    ),
    SessionRead(version=7),
    SessionViewed(what="history"),
    MessageWithdrawn(message_id="m5", reply_id="r5", parent_id="r4"),
    SessionExpired(deadline_us=1_738_368_000_000_000),
    SessionExpired(
        deadline_us=1_738_368_000_000_000,
        erase_reason="request",
        node="a@127.0.0.1:7000",
        reason_code="gdpr-17",
        ticket="DSR-7",
    ),
    SessionDeleted(reason="expired", owner="alice", usage=TOTALS, kind="task", reason_code="gdpr-17", ticket="DSR-7"),
)

# Those of a session that was not deleted: after the others, content of earlier events is gone.
EVERY_LIVING_EVENT = tuple(event for event in EVERY_EVENT if not isinstance(event, ContentErased | SessionDeleted))

# The events of reserved streams, by stream.
RESERVED_EVENTS: dict[str, tuple[Event, ...]] = {
    KEYS: (
        KeyAdded("alice", "0" * 64, "cb_alice", ("chat", "metrics"), expires_at_us=1_768_000_000_000_000),
        KeyRotated("alice", "1" * 64, "cb_alise", earlier_until_us=1_738_000_000_000_000, expires_at_us=None),
        KeyRevoked("alice"),
    ),
    HOLDS: (
        HoldAdded("h1", "litigation", ticket="LEGAL-1", metadata={"user_id": "42"}),
        HoldReleased("h1", "settled", ticket="LEGAL-2"),
        HoldsForgotten((Hold("h2", "audit", 1_768_000_000_000_000, "LEGAL-3", owner="alice", added_by="bob"),)),
    ),
    WITNESS: (CheckpointWitnessed("chatbot-log/" + "a" * 32, 12, "b" * 64, "chatbot-log/...\n\n\u2014 log AAAA\n"),),
}


def posted(content: str) -> MessagePosted:
    """A message, for tests to which only its text matters."""
    return MessagePosted(message_id="m", parent_id=None, role="user", content=content)


def deleted() -> SessionDeleted:
    """An event that explains an erasure."""
    return SessionDeleted(reason="test")
