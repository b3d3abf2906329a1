"""Event types are written once every process over the log reads them."""

import asyncio
import os
import socket
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from chatbot.workers.control_channel import ControlChannel, ControlMessage
from events.catalogue import SCHEMA_VERSIONS, Event, MetadataChanged, ReplyProgressed
from events.codec import VERSIONS_WITH_PARTS, event_type
from events.compatibility import (
    ADMITTED_S,
    BASELINE,
    EventTypeGate,
    NodeVersion,
    encode_version,
    has_new_types,
    new_types,
    own_version,
)
from events.errors import LogUnavailable, NodesOutdated
from events.record import Metadata
from events.schema.parts import Text
from events.storage.append_batch import AppendContext, prepare
from tests.support.log.newer_event_types import MoodNoted, newer_program
from tests.support.log.sample_events import EVERY_EVENT, posted

OLD = NodeVersion("web-1, process 7", "0.5.0", dict(BASELINE))
NEW = NodeVersion("web-2, process 9", "0.6.0", {**BASELINE, "mood_noted": 1})


class Nodes:
    """The others, as a test says; counts the questions."""

    def __init__(self, *versions: NodeVersion) -> None:
        self.present: Sequence[NodeVersion] | None = versions
        self.asked = 0

    async def versions(self) -> Sequence[NodeVersion] | None:
        self.asked += 1
        return self.present


class Gate:
    """A gate, with its clock and what it warned of."""

    def __init__(self, nodes: Nodes) -> None:
        self.now_s = 1000.0
        self.refusals: list[str] = []
        self.warnings: list[str] = []
        self.gate = EventTypeGate(nodes, self, lambda: self.now_s)

    def refused(self, reason: str) -> None:
        self.refusals.append(reason)

    def warned(self, subject: str, reason: str) -> None:
        assert subject == "nodes_outdated"
        self.warnings.append(reason)


def test_the_baseline_is_what_every_program_since_reads() -> None:
    assert all(SCHEMA_VERSIONS[kind] >= version for kind, version in BASELINE.items())


async def test_known_types_ask_nobody() -> None:
    nodes = Nodes(OLD)
    gate = Gate(nodes).gate
    of_baseline = [event for event in EVERY_EVENT if not new_types([event])]
    await gate.admit(of_baseline)
    assert of_baseline
    assert nodes.asked == 0


async def test_what_was_admitted_is_asked_again_when_it_is_old_and_for_other_types() -> None:
    nodes = Nodes(NEW)
    told = Gate(nodes)
    mood = {"mood_noted": 1}
    for _ in range(3):
        assert await told.gate.admits(mood)
    assert nodes.asked == 1
    assert not await told.gate.admits({**mood, "weather_noted": 1})
    nodes.present = [OLD]
    assert await told.gate.admits(mood)
    told.now_s += ADMITTED_S
    assert not await told.gate.admits(mood)


def test_new_types_are_found_in_what_is_encoded() -> None:
    origin = AppendContext("a", 0, Metadata(), 0)
    for event in EVERY_EVENT:
        contents = prepare([posted("x"), event], origin, os.urandom).contents
        assert has_new_types(contents) == bool(new_types([event]))


async def test_a_new_type_is_refused_while_one_node_cannot_read_it_and_the_node_is_named() -> None:
    nodes = Nodes(NEW, OLD)
    told = Gate(nodes)
    with newer_program():
        for _ in range(3):
            with pytest.raises(NodesOutdated, match=r"mood_noted.*update web-1, process 7 \(version 0\.5\.0\)$"):
                await told.gate.admit([posted("x"), MoodNoted("fine")])
        assert len(told.warnings) == 1
        assert told.refusals == ["outdated"] * 3
        nodes.present = (NEW,)
        await told.gate.admit([MoodNoted("fine")])


async def test_a_new_schema_version_is_refused_likewise() -> None:
    changed = MetadataChanged(metadata={})
    with newer_program(metadata_changed=2):
        with pytest.raises(NodesOutdated, match=r"metadata_changed.*web-2"):
            await Gate(Nodes(NEW)).gate.admit([changed])
        newest = own_version("here", "1")
        await Gate(Nodes(newest)).gate.admit([changed, MoodNoted("fine")])


async def test_only_messages_with_parts_need_a_program_that_reads_parts() -> None:
    nodes = Nodes(OLD)
    plain = posted("x")
    await Gate(nodes).gate.admit([plain, ReplyProgressed("r", 0, "text")])
    assert nodes.asked == 0
    with_parts: tuple[Event, ...] = (
        replace(plain, parts=(Text("x"), Text("y"))),
        ReplyProgressed("r", 0, "thought", kind="reasoning"),
    )
    for event in with_parts:
        with pytest.raises(NodesOutdated, match=f"{event_type(event)}.*web-1"):
            await Gate(nodes).gate.admit([plain, event])
        await Gate(Nodes(own_version("here", "1"))).gate.admit([plain, event])


async def test_whether_messages_with_parts_may_be_written_is_told_without_a_warning() -> None:
    told = Gate(Nodes(OLD))
    assert not await told.gate.admits(VERSIONS_WITH_PARTS)
    assert not told.refusals
    assert not told.warnings
    assert await told.gate.admits(BASELINE)
    assert await Gate(Nodes(own_version("here", "1"))).gate.admits(VERSIONS_WITH_PARTS)


async def test_an_answer_counts_for_a_while_and_then_others_are_asked_again() -> None:
    nodes = Nodes(NEW)
    told = Gate(nodes)
    with newer_program():
        for _ in range(5):
            await told.gate.admit([MoodNoted("fine")])
        assert nodes.asked == 1
        told.now_s += ADMITTED_S
        nodes.present = (NEW, OLD)
        with pytest.raises(NodesOutdated):
            await told.gate.admit([MoodNoted("fine")])


async def test_while_it_is_not_known_what_the_others_read_nothing_new_is_written() -> None:
    nodes = Nodes()
    nodes.present = None
    with newer_program(), pytest.raises(LogUnavailable, match="not known yet"):
        await Gate(nodes).gate.admit([MoodNoted("fine")])


async def test_what_may_be_passed_over_asks_nobody() -> None:
    nodes = Nodes(OLD)
    with newer_program(is_ignorable=True):
        await Gate(nodes).gate.admit([MoodNoted("fine")])
    assert nodes.asked == 0


@pytest.mark.parametrize(
    ("order", "versions"),
    [
        (ControlMessage(), None),
        (ControlMessage(siblings={1: "a", 2: "b"}), None),  # a master of 0.4 passes no versions on
        (ControlMessage(siblings={1: "a", 2: "b"}, versions=(encode_version(NEW), "")), None),  # a worker of 0.4
        (ControlMessage(siblings={1: "a", 2: "b"}, versions=(encode_version(NEW), encode_version(OLD))), [NEW, OLD]),
    ],
)
async def test_workers_know_each_others_versions_from_their_master(
    order: ControlMessage, versions: list[NodeVersion] | None
) -> None:
    ours, theirs = socket.socketpair()
    control = ControlChannel(theirs.detach(), asyncio.Event())
    control._apply_message(order)
    assert await control.versions() == versions
    control._end.close()
    ours.close()
