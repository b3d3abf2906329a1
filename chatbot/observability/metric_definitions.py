"""The definitions of the metrics for Prometheus: names, help texts, labels, buckets."""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from chatbot.observability import metric_buckets as bounds
from chatbot.observability.loop_metrics import LoopCounter, LoopGauge, LoopHistogram

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, never read


class MetricDefinitions:
    """All of the service's metrics, in a registry of their own."""

    def __init__(self, version: str) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Gauge("chatbot_build_info", "The running build.", ["version"], registry=registry).labels(version).set(1)
        self._http(registry)
        self._replies(registry)
        self._log(registry)
        self._servers(registry)
        self._service(registry)
        self._nodes(registry)

    def _http(self, registry: CollectorRegistry) -> None:
        self._requests = LoopHistogram(
            "chatbot_http_request_seconds",
            "Requests by route template, method and status; a stream counts until its end.",
            ["route", "method", "status"],
            buckets=bounds.HTTP,
            registry=registry,
        )
        self.in_flight = Gauge("chatbot_http_requests_in_flight", "Requests being answered.", registry=registry)
        self._connections = Gauge("chatbot_open_connections", "Connections of clients and nodes.", registry=registry)
        self._closed = Counter(
            "chatbot_connections_closed_total",
            "Connections closed before their client did: idle or refused at server.connections_max, unread at"
            " server.unsent_max_bytes, write_timeout after server.write_timeout_s.",
            ["reason"],
            registry=registry,
        )
        self._authentication_failures = Counter(
            "chatbot_authentication_failures_total",
            "Requests with a wrong key or ticket; throttled ones got 429 at auth.failures_per_minute.",
            ["credential", "throttled"],
            registry=registry,
        )
        self._accept_failures = Counter(
            "chatbot_accept_failures_total", "Connections that the system could not accept.", registry=registry
        )
        self._streams = LoopGauge("chatbot_open_streams", "Streams being written to readers.", registry=registry)

    def _replies(self, registry: CollectorRegistry) -> None:
        model_labels = ["provider", "model"]
        self._ended = LoopCounter(
            "chatbot_replies_total", "Replies by how they ended.", [*model_labels, "outcome"], registry=registry
        )
        self._first_token = LoopHistogram(
            "chatbot_time_to_first_token_seconds",
            "From asking the model to its first text.",
            model_labels,
            buckets=bounds.FIRST_TOKEN,
            registry=registry,
        )
        self._per_token = LoopHistogram(
            "chatbot_time_per_token_seconds",
            "Mean time between tokens after the first, by reply.",
            model_labels,
            buckets=bounds.PER_TOKEN,
            registry=registry,
        )
        self._duration = LoopHistogram(
            "chatbot_reply_seconds",
            "From asking the model to its end.",
            model_labels,
            buckets=bounds.REPLY,
            registry=registry,
        )
        self._tokens = LoopCounter(
            "chatbot_tokens_total",
            "Tokens as the model server counts them.",
            [*model_labels, "direction"],
            registry=registry,
        )
        self._model_up = Gauge("chatbot_model_available", "1 when the model server can be asked.", registry=registry)
        self._model_running = Gauge("chatbot_model_replies_running", "Replies being written.", registry=registry)
        self._model_waiting = Gauge("chatbot_model_replies_waiting", "Replies waiting to start.", registry=registry)
        self._model_owners_waiting = Gauge(
            "chatbot_model_owners_waiting", "Owners (API keys) with replies waiting to start.", registry=registry
        )

    def _servers(self, registry: CollectorRegistry) -> None:
        """Series only where there are several model servers; `server` is the configured name."""
        self._server_up = Gauge(
            "chatbot_llm_server_up",
            "1 when this of several model servers can be asked.",
            ["server"],
            registry=registry,
        )
        self._server_requests = Counter(
            "chatbot_llm_server_requests_total",
            "Requests for replies by how they ended: completed, failed (the server's fault), overloaded (it has no"
            " capacity), refused (the request's fault), abandoned (nobody waited any more).",
            ["server", "outcome"],
            registry=registry,
        )
        self._server_outstanding = Gauge(
            "chatbot_llm_server_outstanding", "Requests that the server is answering.", ["server"], registry=registry
        )
        self._server_breaker = Gauge(
            "chatbot_llm_server_breaker",
            "1 for the state of the server's circuit breaker: closed, half_open, open.",
            ["server", "state"],
            registry=registry,
        )

    def _log(self, registry: CollectorRegistry) -> None:
        self._append = LoopHistogram(
            "chatbot_append_seconds",
            "From asking for an append to its being on disk, the first of each batch.",
            buckets=bounds.DISK,
            registry=registry,
        ).series[()]
        self._oldest_append = Gauge(
            "chatbot_append_pending_seconds",
            "How long the oldest append waits that is not on disk yet; 0 if none waits.",
            registry=registry,
        )
        self._commit = LoopHistogram(
            "chatbot_commit_seconds", "One transaction, fsync included.", buckets=bounds.DISK, registry=registry
        ).series[()]
        self._batch = LoopHistogram(
            "chatbot_append_batch_events", "Events that share one fsync.", buckets=bounds.BATCH, registry=registry
        ).series[()]
        self._log_refused = Counter(
            "chatbot_appends_refused_total", "Appends refused, by reason.", ["reason"], registry=registry
        )
        self._clock_jumps = Counter(
            "chatbot_clock_jumps_total",
            "Jumps of the wall clock against the clock since the boot, or behind the log's newest event.",
            registry=registry,
        )
        self._files_lost = Counter(
            "chatbot_log_files_lost_total",
            "Files of the log found deleted or replaced while it was open.",
            registry=registry,
        )
        self._keys_outdated = Gauge(
            "chatbot_keys_outdated",
            "1 while the API keys in the log cannot be read: the last known ones stay in force.",
            registry=registry,
        )
        self._outdated = Gauge(
            "chatbot_node_outdated",
            "1 when the log holds an event that this program does not know: it must be updated.",
            registry=registry,
        )
        self._erasure_pending = Gauge(
            "chatbot_erasure_pending",
            "1 while content of deleted sessions is in a file: a program reads it, forks copy it, or start found it.",
            registry=registry,
        )
        self.anchor_age = Gauge(
            "chatbot_anchor_age_seconds",
            "Age of the newest anchor of each target, by its number in anchors.targets.",
            ["target"],
            registry=registry,
        )
        self.anchor_missing = Gauge(
            "chatbot_anchor_missing_events",
            "Events of the log that are not in the newest anchor of each target.",
            ["target"],
            registry=registry,
        )
        self.anchor_contradicted = Gauge(
            "chatbot_anchor_contradicted",
            "1 while the newest anchor of the target contradicts the log: rolled back, or rewritten.",
            ["target"],
            registry=registry,
        )
        self.anchor_failures = Counter(
            "chatbot_anchor_failures_total", "Anchors that could not be written.", ["target"], registry=registry
        )
        self._lag_events = Gauge(
            "chatbot_projection_lag_events", "Events that the projections have not folded.", registry=registry
        )
        self._lag_s = Gauge(
            "chatbot_projection_lag_seconds", "How long the oldest of them has waited.", registry=registry
        )
        self._folded = LoopCounter("chatbot_projected_events_total", "Events folded.", (), registry=registry)
        self._fold_failures = Counter(
            "chatbot_projection_failures_total", "Batches that could not be written.", registry=registry
        )
        self._rebuilds = Counter("chatbot_projection_rebuilds_total", "Rebuilds from the log.", registry=registry)

    def _nodes(self, registry: CollectorRegistry) -> None:
        self._mirrors = Gauge("chatbot_mirrors", "Replies of other nodes that are followed here.", registry=registry)
        self._notifications_lost = Gauge(
            "chatbot_notifications_lost",
            "1 while this process has no connection to PostgreSQL that listens: it notices late what others record.",
            registry=registry,
        )
        self._peer_failures = Counter(
            "chatbot_peer_failures_total",
            "Questions that another node did not answer.",
            ["question"],
            registry=registry,
        )

    def _service(self, registry: CollectorRegistry) -> None:
        self._actors = Gauge("chatbot_live_actors", "Sessions in memory.", registry=registry)
        self._refused = Counter(
            "chatbot_asks_refused_total",
            "Commands refused by full mailboxes and queues, caps and shares.",
            ["reason"],
            registry=registry,
        )
        self._actor_failures = Counter(
            "chatbot_actor_failures_total", "Actors that failed on a command.", registry=registry
        )
        self._erased_early = Counter(
            "chatbot_stateless_erased_early_total",
            "Requests without a conversation that were erased as their API key had more than v1.stateless_max_bytes.",
            registry=registry,
        )
        self._holds = Gauge("chatbot_holds", "Legal holds in force.", registry=registry)
        self._erasures_held = Counter(
            "chatbot_erasures_held_total",
            "Erasures and redactions that were refused because of a legal hold.",
            registry=registry,
        )
        self._sessions = Gauge("chatbot_sessions", "Sessions by status.", ["status"], registry=registry)
        self._log_lines_dropped = Counter(
            "chatbot_log_lines_dropped_total",
            "Lines of logs lost, as nobody read standard error or it could not be written.",
            registry=registry,
        )
        self._loop_lag = LoopHistogram(
            "chatbot_loop_lag_seconds",
            "How late the event loop wakes a sleeper, looked at ten times a second, in an idle process once.",
            buckets=bounds.LAG,
            registry=registry,
        ).series[()]
