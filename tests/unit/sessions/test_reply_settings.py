"""Which parameters a reply is made with, and the settings of a session at each moment of its record."""

from msgspec import UNSET

from chatbot.audit.conversation import load_conversation
from chatbot.audit.conversation_diff import Change, diff_conversations
from chatbot.audit.model_calls import ContextBuilder
from chatbot.audit.plain_text import render_text
from chatbot.audit.point_in_time import PointInTime
from chatbot.sessions.domain.state import changed_settings, fold_history, merge_parameters
from events.catalogue import MetadataChanged, Parameters, ReplySettings, SessionCreated
from events.codec import encode
from tests.support.log.event_builders import posted, started
from tests.support.log.memory_log import MemoryLog

FIRST = ReplySettings("Be brief.", Parameters(temperature=0.2))
SECOND = ReplySettings(None, Parameters(temperature=0.2, seed=3))
CREATED = SessionCreated(owner=None, metadata={}, timeout_s=60, system_prompt="Be brief.", parameters=FIRST.parameters)
STEPS = (
    CREATED,
    MetadataChanged({}, "T"),
    MetadataChanged({}, "T", SECOND),
    MetadataChanged({}, "T2", SECOND),
    MetadataChanged({}, "T2"),
)
SETTINGS = (FIRST, FIRST, SECOND, SECOND, FIRST)


def test_each_parameter_is_the_first_that_is_named() -> None:
    asked, session = Parameters(temperature=0.0, do_sample=False), Parameters(temperature=1.0, top_p=0.5, stop=("a",))
    defaults = Parameters(max_new_tokens=9, temperature=0.7, do_sample=True)
    expected = Parameters(max_new_tokens=9, temperature=0.0, do_sample=False, top_p=0.5, stop=("a",))
    assert merge_parameters(asked, session, defaults) == expected
    assert merge_parameters(asked, session, defaults, without_stop=True).stop == ()
    assert merge_parameters(Parameters()) == Parameters()


def test_a_change_names_what_it_changes_and_none_removes() -> None:
    assert changed_settings(FIRST, UNSET, {"seed": 3}) == ReplySettings(
        "Be brief.", Parameters(temperature=0.2, seed=3)
    )
    assert changed_settings(FIRST, None, {"temperature": None, "stop": None}) == ReplySettings()
    assert changed_settings(FIRST, "", {}).system_prompt is None


def test_a_session_without_settings_is_recorded_as_it_was_before_there_were_any() -> None:
    parameters = changed_settings(ReplySettings(), UNSET, {"seed": None}).parameters
    data = encode(SessionCreated(owner=None, metadata={}, timeout_s=60, parameters=parameters))
    assert data == b'{"type":"session_created","owner":null,"metadata":{},"timeout_s":60}'


def test_a_session_has_the_settings_of_its_newest_change() -> None:
    log = MemoryLog()
    log.record("s", *STEPS)
    history = [one for one in log.events if one.stream_id == "s"]
    assert [fold_history(history[:count]).settings for count in range(1, 6)] == list(SETTINGS)


async def test_the_record_is_read_with_the_settings_of_each_moment() -> None:
    log = MemoryLog()
    log.record("s", *STEPS)
    stood = [await load_conversation(log, "s", PointInTime(version=version)) for version in range(1, 6)]
    told = [(one.system_prompt, one.parameters) for one in stood if one is not None]
    assert told == [(one.system_prompt, one.parameters) for one in SETTINGS]
    first, third = stood[0], stood[2]
    assert first is not None
    assert third is not None
    assert Change("parameters", "", FIRST.parameters, SECOND.parameters) in diff_conversations(first, third)
    assert 'parameters {"temperature":0.2,"seed":3}' in render_text(third)


def test_a_request_is_built_with_the_system_prompt_of_its_moment() -> None:
    log, texts, prompts = MemoryLog(), ContextBuilder(), list[str | None]()
    log.record("s", *STEPS, posted("m", None, "r"), started("r", "m"))
    *steps, asked = [one for one in log.events if one.stream_id == "s"]
    for recorded in steps:
        assert recorded.event is not None
        texts.apply(recorded.event)
        call = texts.model_call(asked, started("r", "m"))
        prompts.append(next((one.content for one in call.messages if one.role == "system"), None))
    assert prompts[:5] == ["Be brief.", "Be brief.", None, None, "Be brief."]
