"""The gateway's Prometheus figures, by name. Labels are closed sets, never a user, a turn or a word."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One set of figures, in a registry of its own: two gateways in one process do not collide."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.open_streams = Gauge("freya_open_streams", "Open SSE connections", registry=registry)
        self.running_turns = Gauge("freya_running_turns", "Turns that this process runs", registry=registry)
        self.turns = Counter("freya_turns", "Turns ended, by status", ["status"], registry=registry)
        self.first_token = Histogram(
            "freya_first_token_seconds",
            "From the accepted message to the first piece of its reply in the log",
            buckets=SECONDS,
            registry=registry,
        )
        self.piece_gap = Histogram(
            "freya_piece_gap_seconds", "Between two commits of one reply's pieces", buckets=SECONDS, registry=registry
        )
        self.log_lag = Histogram(
            "freya_log_lag_seconds",
            "From the arrival of an append's oldest piece to its commit",
            buckets=SECONDS,
            registry=registry,
        )
        self.resumes = Counter("freya_resumes", "Opened streams by how they began", ["outcome"], registry=registry)
        self.closed_streams = Counter("freya_closed_streams", "Closed streams by reason", ["reason"], registry=registry)
        self.upstream_errors = Counter(
            "freya_upstream_errors", "Model calls that failed, by code", ["code"], registry=registry
        )
        self.log_failures = Counter(
            "freya_log_failures", "Appends that PostgreSQL did not take at once", registry=registry
        )
        self._measure_memory(registry)

    def _measure_memory(self, registry: CollectorRegistry) -> None:
        self.memory_runs = Counter(
            "freya_memory_runs",
            "Memory work by kind and how it went: done, failed, lost to another process, interrupted",
            ["kind", "outcome"],
            registry=registry,
        )
        self.memory_dead = Gauge(
            "freya_memory_dead", "Users whose memory work is given up", ["kind"], registry=registry
        )
        self.memory_oldest_due = Gauge(
            "freya_memory_oldest_due_seconds", "How long the oldest due memory work waits", ["kind"], registry=registry
        )
