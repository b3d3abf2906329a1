"""What an erasure may mean, and that none is left without its receipt."""

import argparse
import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from chatbot.cli.erasure.erase import _confirm_metadata, _run_to_completion
from chatbot.cli.erasure.erase_criteria import REASONS, EraseCriteria, read_criteria
from chatbot.cli.erasure.offline_service import NoModel, OfflineService
from chatbot.cli.exit_codes import CommandFailed
from chatbot.llm.provider import (
    LlmUnavailable,
    TextSink,
)
from chatbot.runtime.clock import timestamp
from chatbot.sessions.session_queries import SessionWithMetadata
from projections.folds.session import Session
from projections.port import EraseCandidatesQuery
from projections.sql.erase_candidates import erase_candidates_sql

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY_US = 86_400_000_000


def wanted(**said: Any) -> EraseCriteria:
    options = {"sessions": None, "owner": None, "metadata": None, "expired_before": None, "ever": False}
    options |= {"reason_code": None, "ticket": None, **said}
    return read_criteria(argparse.Namespace(**options), NOW)


def session(no: int) -> Session:
    return Session(no, f"s{no}", None, 3600, 0, 0, 1, no, no)


def test_the_reason_is_one_of_a_few_words_and_never_a_name_or_a_value() -> None:
    said = [wanted(owner="mina"), wanted(metadata=["user_id=mina"]), wanted(sessions=["mina"])]
    assert {one.reason for one in said} < set(REASONS.values())
    assert not any("mina" in one.reason for one in said)


def test_a_value_may_hold_an_equals_sign_and_a_name_comes_once() -> None:
    assert wanted(metadata=["a=b=c", "d=", "a=b=c"]).metadata == {"a": "b=c", "d": ""}
    with pytest.raises(CommandFailed, match="two values"):
        wanted(metadata=["a=1", "a=2"])
    with pytest.raises(CommandFailed, match="two values"):
        wanted(metadata=["\u00e9=1", "e\u0301=2"])


def test_earlier_values_are_of_metadata_only() -> None:
    assert wanted(metadata=["a=1"], ever=True).ever
    with pytest.raises(CommandFailed, match="--ever goes with --metadata"):
        wanted(owner="mina", ever=True)


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T09:30:00+09:00", datetime(2026, 1, 31, 0, 30, tzinfo=UTC)),
        ("2026-01-31t00:30:00z", datetime(2026, 1, 31, 0, 30, tzinfo=UTC)),
        ("2030-01-01", NOW),
    ],
)
def test_before_a_day_is_before_it_begins_and_never_in_the_future(text: str, last: datetime) -> None:
    assert wanted(expired_before=text).expired_by_us == round(last.timestamp()) * 1_000_000 - 1


def test_times_are_written_to_the_microsecond() -> None:
    assert timestamp(1_700_000_000_000_001) == "2023-11-14T22:13:20.000001Z"


async def test_a_label_that_two_texts_share_by_chance_erases_nobody_else() -> None:
    class Texts:
        async def with_metadata(self, sessions: list[Session]) -> list[SessionWithMetadata]:
            values = {1: "42", 2: "43"}
            return [SessionWithMetadata(one, {"user_id": values[one.no]}, None) for one in sessions]

    inside = OfflineService(cast(Any, None), cast(Any, None), cast(Any, Texts()))
    page = [session(2), session(1)]
    assert [one.no for one in await _confirm_metadata(inside, page, {"user_id": "42"})] == [1]
    assert await _confirm_metadata(inside, page, {}) == page


async def test_the_session_at_hand_is_finished_before_a_cancellation_goes_on() -> None:
    steps: list[str] = []

    async def work() -> None:
        steps.append("erasing")
        await asyncio.sleep(0.05)
        steps.append("receipt")

    task = asyncio.create_task(_run_to_completion(work()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["erasing", "receipt"]


def test_every_condition_is_in_the_query() -> None:
    query, values = erase_candidates_sql(
        EraseCandidatesQuery(owner="a", expired_by_us=5, before_no=9, limit=3), [7, -8]
    )
    for part in ("s.owner = :owner", "is_open = 0", "d.no < :before_no", "d.label = 7", "label = -8", "no DESC"):
        assert part in query
    assert values == {"before_no": 9, "owner": "a", "expired_by_us": 5, "limit": 3}


async def test_no_model_is_asked_offline() -> None:
    with pytest.raises(LlmUnavailable):
        await NoModel().stream((), None, TextSink(print))
    assert not (await NoModel().health()).available
