"""What is counted, under which labels, and that nothing grows without bound."""

from typing import NamedTuple

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from chatbot.observability import metric_buckets
from chatbot.observability.metrics import (
    CHOSEN_MODELS_MAX,
    MODELS_MAX,
    LogMetrics,
    Metrics,
    ProjectionMetrics,
    SessionMetrics,
)
from chatbot.sessions.replies.reply import ReplyTiming
from events.catalogue import (
    Parameters,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnded,
    ReplyFailed,
    ReplyInterrupted,
    ReplyStarted,
    Usage,
)

WHO = {"provider": "openai", "model": "small"}
STARTED = ReplyStarted("r", "m", "node", "openai", "small", Parameters(), ("m",))
SECOND = 1_000_000


def value(metrics: Metrics, sample: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(sample, labels)


def watch(metrics: Metrics) -> SessionMetrics:
    return SessionMetrics(metrics, structlog.get_logger("test"))


def completed(tokens: int, model: str = "small") -> ReplyCompleted:
    return ReplyCompleted("r", "text", "stop", model, 3 * SECOND, Usage(40, tokens, 40 + tokens))


@pytest.mark.parametrize(
    ("ended", "outcome"),
    [
        (completed(5), "complete"),
        (ReplyFailed("r", "te", "llm_timeout", "slow", 3 * SECOND), "failed"),
        (ReplyCancelled("r", "te", "client", 3 * SECOND), "cancelled"),
        (ReplyInterrupted("r", "te", "shutdown", 3 * SECOND), "interrupted"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_reply_is_counted_once_by_how_it_ended(ended: ReplyEnded, outcome: str) -> None:
    metrics = Metrics("1")
    watch(metrics).reply_ended(STARTED, ended, ReplyTiming(asked_s=10.0, first_s=11.0), None)
    assert value(metrics, "chatbot_replies_total", outcome=outcome, **WHO) == 1
    assert value(metrics, "chatbot_reply_seconds_sum", **WHO) == 3
    assert value(metrics, "chatbot_time_to_first_token_seconds_sum", **WHO) == 1


def test_tokens_are_counted_in_and_out_and_the_time_between_those_after_the_first() -> None:
    metrics = Metrics("1")
    watch(metrics).reply_ended(STARTED, completed(5), ReplyTiming(asked_s=10.0, first_s=11.0), None)
    assert value(metrics, "chatbot_tokens_total", direction="in", **WHO) == 40
    assert value(metrics, "chatbot_tokens_total", direction="out", **WHO) == 5
    assert value(metrics, "chatbot_time_per_token_seconds_sum", **WHO) == (3 - 1) / (5 - 1)


@pytest.mark.parametrize(
    "ended",
    [
        ReplyFailed("r", "", "llm_failed", "reasoned", 3 * SECOND, usage=Usage(40, 5, 45), model="small"),
        ReplyCancelled("r", "", "client", 3 * SECOND, usage=Usage(40, 5, 45), model="small"),
        ReplyInterrupted("r", "", "shutdown", 3 * SECOND, usage=Usage(40, 5, 45), model="small"),
    ],
    ids=lambda ended: type(ended).__name__,
)
def test_tokens_of_a_reply_that_ended_early_are_counted_too(ended: ReplyEnded) -> None:
    metrics = Metrics("1")
    watch(metrics).reply_ended(STARTED, ended, ReplyTiming(asked_s=10.0), None)
    assert value(metrics, "chatbot_tokens_total", direction="in", **WHO) == 40
    assert value(metrics, "chatbot_tokens_total", direction="out", **WHO) == 5


def test_a_reply_of_one_token_has_no_time_between_tokens() -> None:
    metrics = Metrics("1")
    watch(metrics).reply_ended(STARTED, completed(1), ReplyTiming(asked_s=10.0, first_s=11.0), None)
    assert not value(metrics, "chatbot_time_per_token_seconds_count", **WHO)


def test_a_reply_without_a_word_has_no_first_token() -> None:
    metrics = Metrics("1")
    failed = ReplyFailed("r", "", "llm_unavailable", "", 0)
    watch(metrics).reply_ended(STARTED, failed, ReplyTiming(asked_s=10.0), None)
    assert not value(metrics, "chatbot_time_to_first_token_seconds_count", **WHO)
    assert value(metrics, "chatbot_replies_total", outcome="failed", **WHO) == 1


def test_models_beyond_the_first_few_share_one_label() -> None:
    metrics = Metrics("1")
    for number in range(MODELS_MAX + 20):
        watch(metrics).reply_ended(
            STARTED, completed(2, f"model-{number}"), ReplyTiming(asked_s=0.0, first_s=1.0), None
        )
    assert model_labels(metrics) == {*(f"model-{number}" for number in range(MODELS_MAX)), "other"}
    assert value(metrics, "chatbot_replies_total", provider="openai", model="other", outcome="complete") == 20


def model_labels(metrics: Metrics) -> set[str]:
    families = text_string_to_metric_families(metrics.render("")[0].decode())
    return {sample.labels["model"] for family in families for sample in family.samples if "model" in sample.labels}


def asked_for(model: str) -> ReplyStarted:
    return ReplyStarted("r", "m", "node", "openai", model, Parameters(model=model), ("m",))


class Offered(NamedTuple):
    models: frozenset[str]


@pytest.mark.parametrize("answered", ["Mina Kim, 010-1234", "a name of the server's"])
@pytest.mark.parametrize("has_failed", [False, True])
def test_a_model_that_a_client_made_up_is_neither_counted_nor_logged_by_its_name(
    answered: str, *, has_failed: bool
) -> None:
    metrics, started = Metrics("1"), asked_for("Mina Kim, 010-1234")
    ended = ReplyFailed("r", "", "llm_failed") if has_failed else completed(5, answered)
    with structlog.testing.capture_logs() as lines:
        watched = SessionMetrics(metrics, structlog.get_logger("test"), Offered(frozenset({"small"})))
        watched.reply_ended(started, ended, ReplyTiming(asked_s=10.0, first_s=11.0), None)
    assert model_labels(metrics) == {"other"}
    assert [line["model"] for line in lines] == ["other"]


@pytest.mark.parametrize(
    ("requested", "answered"),
    [("small", "small-2026-11"), ("alias", "small"), ("small", "small")],
)
def test_a_model_that_is_offered_is_counted_under_the_servers_name(requested: str, answered: str) -> None:
    metrics = Metrics("1")
    watched = SessionMetrics(metrics, structlog.get_logger("test"), Offered(frozenset({"small"})))
    watched.reply_ended(asked_for(requested), completed(5, answered), ReplyTiming(asked_s=10.0, first_s=11.0), None)
    assert model_labels(metrics) == {answered}


def test_however_many_offered_models_clients_pick_the_services_own_has_its_label() -> None:
    metrics = Metrics("1")
    offered = [f"model-{number}" for number in range(MODELS_MAX + 20)]
    watched = SessionMetrics(metrics, structlog.get_logger("test"), Offered(frozenset(offered)))
    for name in offered:
        watched.reply_ended(asked_for(name), completed(5, name), ReplyTiming(asked_s=0.0, first_s=1.0), None)
    watched.reply_ended(STARTED, completed(5), ReplyTiming(asked_s=0.0, first_s=1.0), None)
    assert model_labels(metrics) == {*offered[:CHOSEN_MODELS_MAX], "small", "other"}


def test_open_streams_are_counted() -> None:
    metrics = Metrics("1")
    metrics.stream_opened()
    metrics.stream_opened()
    metrics.stream_ended()
    assert value(metrics, "chatbot_open_streams") == 1


def test_what_the_log_and_the_projections_report_is_counted() -> None:
    metrics = Metrics("1")
    log = LogMetrics(metrics, structlog.get_logger("test"))
    log.appended(batch_events=7, append_s=0.02, commit_s=0.01)
    log.refused("busy")
    assert log.writable
    log.stalled(5.0)
    assert not log.writable
    log.appended(batch_events=1, append_s=6.0, commit_s=6.0)
    assert log.writable
    log.notified(is_notified=False)
    assert value(metrics, "chatbot_notifications_lost") == 1
    log.notified(is_notified=True)
    assert value(metrics, "chatbot_notifications_lost") == 0
    folds = ProjectionMetrics(metrics, structlog.get_logger("test"))
    folds.applied(7, 0.01)
    folds.failed(OSError("disk"))
    folds.rebuilt("it is damaged")
    assert value(metrics, "chatbot_append_batch_events_sum") == 8
    assert value(metrics, "chatbot_append_seconds_sum") == 6.02
    assert value(metrics, "chatbot_commit_seconds_sum") == 6.01
    assert value(metrics, "chatbot_appends_refused_total", reason="busy") == 1
    assert value(metrics, "chatbot_projected_events_total") == 7
    assert value(metrics, "chatbot_projection_failures_total") == 1
    assert value(metrics, "chatbot_projection_rebuilds_total") == 1


def test_a_request_is_counted_by_route_method_and_status() -> None:
    metrics = Metrics("1")
    metrics.observe_request("/api/sessions/{session_id}", "GET", 404, 0.003)
    labels = {"route": "/api/sessions/{session_id}", "method": "GET", "status": "404"}
    assert value(metrics, "chatbot_http_request_seconds_count", **labels) == 1
    assert value(metrics, "chatbot_http_request_seconds_bucket", le="0.0025", **labels) == 0
    assert value(metrics, "chatbot_http_request_seconds_bucket", le="0.005", **labels) == 1


def test_the_buckets_are_those_that_opentelemetry_advises_for_models() -> None:
    assert tuple(0.01 * 2**power for power in range(14)) == metric_buckets.REPLY
    assert metric_buckets.FIRST_TOKEN[:4] == (0.001, 0.005, 0.01, 0.02)
    assert metric_buckets.FIRST_TOKEN[-4:] == (2.5, 5.0, 7.5, 10.0)
    assert metric_buckets.PER_TOKEN == (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


@pytest.mark.parametrize(
    ("accept", "kind", "end"),
    [
        ("", "text/plain", b"\n"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text", b"EOF\n"),
    ],
)
def test_the_text_comes_in_the_format_that_was_asked_for(accept: str, kind: str, end: bytes) -> None:
    metrics = Metrics("1.2.3")
    body, content_type = metrics.render(accept)
    assert content_type.startswith(kind)
    assert body.endswith(end)
    assert b'chatbot_build_info{version="1.2.3"} 1.0' in body
    assert b"_created" not in body


def test_two_services_in_one_process_count_apart() -> None:
    first, second = Metrics("1"), Metrics("1")
    first.in_flight.inc()
    assert value(first, "chatbot_http_requests_in_flight") == 1
    assert value(second, "chatbot_http_requests_in_flight") == 0


def test_dropped_log_lines_are_counted_from_a_total() -> None:
    metrics = Metrics("1")
    for total in (0, 3, 3, 8):
        metrics.log_lines_dropped(total)
        assert value(metrics, "chatbot_log_lines_dropped_total") == total
