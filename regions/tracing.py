"""Traces: what a request does that says it is traced, here and in the regions that it reaches.

A ``traceparent`` that a client sends is carried with the message that it opens. Each region that
has somewhere to send spans to makes its own of it; the others hand it on. Only what was given is
traced, and only where it says that it is recorded; a message has some spans, and a token none.
Nothing of OpenTelemetry is imported before :func:`exporting_to`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from perdure.regions.clock import nanoseconds_of, seconds_of
from perdure.regions.ports import Clock
from perdure.regions.writer import Applied
from perdure.replication.errors import Refusal
from perdure.replication.limits import TRACE_SPANS_WAITING_MAX
from perdure.replication.operations import Open

# The trace of the request that is carried out in this task; see ``sampled``.
CURRENT: ContextVar[str | None] = ContextVar("perdure_trace", default=None)
CLOSE_MS_MAX = 1_000
Commit = tuple[float, float]


class Tracing:
    """Hands on what it is given, and makes no span; see :class:`SpanTracing`."""

    is_on = False
    # What is to be done when a message of a session is first handed to a reader.
    expected: dict[tuple[str, str], Callable[[], None]]

    def __init__(self) -> None:
        self.expected = {}

    @contextlib.contextmanager
    def request(self, _: str, __: str, ___: str | None = None) -> Iterator[str | None]:
        """While a request is carried out that may be traced; what goes on with its message."""
        yield CURRENT.get()

    def committed(self, applied: Sequence[Applied], seconds: float) -> None:
        """These are on disk and applied; the disk took so long."""

    def close(self) -> None:
        """Send what waits, within ``CLOSE_MS_MAX``."""


class SpanTracing(Tracing):
    """Makes spans. ``commit``: when the last commit began, and when it was on disk."""

    is_on = True

    def __init__(
        self, provider: Any, region: str, clock: Clock, commit: Callable[[], Commit]
    ) -> None:
        """``provider``: a ``TracerProvider`` of OpenTelemetry's SDK."""
        from opentelemetry import trace

        super().__init__()
        self._api = trace
        self._provider = provider
        self._tracer = provider.get_tracer("perdure")
        self._region = region
        self._commit = commit
        self._now_s, self._now_ns = seconds_of(clock), nanoseconds_of(clock)

    @contextlib.contextmanager
    def request(self, name: str, session: str, message: str | None = None) -> Iterator[str | None]:
        """See :class:`Tracing`. A refusal is an error of the span, by its code."""
        parent = CURRENT.get()
        if parent is None:
            yield None
            return
        began_s = self._now_s()
        span = self._begin(name, parent, began_s, session, message, kind="SERVER")
        try:
            yield _traceparent(span)
        except Exception as error:
            code = error.code if isinstance(error, Refusal) else type(error).__name__
            span.set_status(self._api.StatusCode.ERROR, code)
            raise
        finally:
            self._tell_commit(_traceparent(span), began_s, session, message)
            span.end(self._ns(self._now_s()))

    def _tell_commit(self, parent: str, began_s: float, session: str, message: str | None) -> None:
        """How long a request waited for its commit, and how long the disk took."""
        commit_began_s, committed_s = self._commit()
        # Of a retry there is nothing to commit.
        if committed_s >= began_s:
            turn_s = max(began_s, commit_began_s)
            self._span("perdure.admit", parent, began_s, turn_s, session, message)
            self._span("perdure.commit", parent, turn_s, committed_s, session, message)

    def committed(self, applied: Sequence[Applied], seconds: float) -> None:
        """See :class:`Tracing`: messages of other regions have been applied here, and all that are
        traced may be delivered now."""
        end_s = self._commit()[1]
        for operation, record in applied:
            if not isinstance(operation, Open) or operation.trace is None:
                continue
            place = (operation.session, operation.message)
            parent = operation.trace
            if record.origin.region != self._region:
                about = {"perdure.origin": record.origin.region}
                begin_s = end_s - seconds
                parent = self._span("perdure.apply", parent, begin_s, end_s, *place, **about)
            self.expected[place] = self._delivery(parent, end_s, *place)

    def _delivery(
        self, parent: str, committed_s: float, session: str, message: str
    ) -> Callable[[], None]:
        def delivered() -> None:
            now_s = self._now_s()
            self._span("perdure.deliver", parent, committed_s, now_s, session, message)

        return delivered

    def _span(
        self,
        name: str,
        parent: str,
        begin_s: float,
        end_s: float,
        session: str,
        message: str | None,
        **more: str,
    ) -> str:
        """A span that is over; its own ``traceparent``."""
        span = self._begin(name, parent, begin_s, session, message)
        span.set_attributes(more)
        span.end(self._ns(end_s))
        return _traceparent(span)

    def _begin(
        self,
        name: str,
        parent: str,
        begin_s: float,
        session: str,
        message: str | None,
        kind: str = "INTERNAL",
    ) -> Any:
        api = self._api
        _, trace_id, span_id, _ = parent.split("-")
        flags = api.TraceFlags(api.TraceFlags.SAMPLED)
        context = api.SpanContext(int(trace_id, 16), int(span_id, 16), True, flags)
        about = {"perdure.region": self._region, "perdure.session": session}
        return self._tracer.start_span(
            name,
            api.set_span_in_context(api.NonRecordingSpan(context)),
            api.SpanKind[kind],
            about if message is None else {**about, "perdure.message": message},
            start_time=self._ns(begin_s),
        )

    def _ns(self, moment_s: float) -> int:
        """The time of day of a moment of the monotonic clock."""
        return self._now_ns() - int((self._now_s() - moment_s) * 1e9)

    def close(self) -> None:
        """See :class:`Tracing`."""
        self._provider.force_flush(CLOSE_MS_MAX)
        self._provider.shutdown()


def _traceparent(span: Any) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


class NoTracing(Exception):
    """OpenTelemetry is not installed."""


def exporting_to(url: str, region: str, version: str) -> Any:
    """A provider that sends spans to a collector, by OTLP over HTTP, from a thread of its own; what
    there is no room for is dropped. Raises ``NoTracing``."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise NoTracing("traces need an extra: pip install 'perdure[otel]'") from error
    about = {"service.name": "perdure", "service.version": version, "service.instance.id": region}
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(url, timeout=CLOSE_MS_MAX // 1000)
    waiting = BatchSpanProcessor(exporter, max_queue_size=TRACE_SPANS_WAITING_MAX)
    provider.add_span_processor(waiting)
    return provider
