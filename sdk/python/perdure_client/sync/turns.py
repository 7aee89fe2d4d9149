"""One turn of an agent, for threads. Made by ``make sync-client``: change
``perdure_client/turns.py`` instead."""

from typing import Any

from perdure_client import turns as asynchronous
from perdure_client.pipes import Format
from perdure_client.sync.portal import Iteration, Portal
from perdure_client.sync.session import Session
from perdure_client.sync.writer import Writer
from perdure_client.vendor_parts import End


class Turn:
    """A run that this worker holds. ``pipe`` a model's stream, or ``write`` with its ``writer``; in
    ``with`` the message is complete at the end of the block, and failed when that raises.

    ``session`` and ``run`` are where and what it is; ``inputs`` the messages that were addressed to
    it so far, anew in each attempt, so who acts on one outside of the session takes the run's id
    and ``attempt`` as the key; ``text`` and ``parts`` what the message shows already, which is
    continued.

    ``is_over``: it is held no more; ``error``: what took it away, if something did.

    Everything raises ``Cancelled`` once the run was cancelled, and ``Fenced`` once another worker
    has taken it over.
    """

    def __init__(self, portal: Portal, it: asynchronous.Turn) -> None:
        self._portal = portal
        self._it = it

    @property
    def session(self) -> Session:
        """As the class says."""
        return Session(self._portal, self._it.session)

    @property
    def run(self) -> dict[str, Any]:
        """As the class says."""
        return self._it.run

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """As the class says."""
        return self._it.inputs

    @property
    def attempt(self) -> int:
        """As the class says."""
        return self._it.attempt

    @property
    def writer(self) -> Writer:
        """As the class says."""
        return Writer(self._portal, self._it.writer)

    @property
    def error(self) -> Exception | None:
        """As the class says."""
        return self._it.error

    @property
    def is_over(self) -> bool:
        """As the class says."""
        return self._it.is_over

    @property
    def id(self) -> str:
        """The run's id, which is its message's."""
        return self._it.id

    @property
    def text(self) -> str:
        """What the message showed when it was claimed."""
        return self._it.text

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The parts that the message showed when it was claimed."""
        return self._it.parts

    def history(self, limit: int = 100) -> list[dict[str, Any]]:
        """The conversation that is to be answered, oldest first, as a model is told it: of the
        ``limit`` messages before this one those that still stand (:func:`standing`), and what the
        run answers.

        Waits for the message that the run answers, where the region has not heard of it yet;
        raises ``NotFound`` when it does not come.
        """
        return self._portal.call(self._it.history(limit))

    def pipe(self, stream: Any, format: Format | None = None) -> End:
        """Write a model's whole answer, end the run, and wait until all of it is in two regions;
        how it ended. ``stream`` and ``format`` are as of :meth:`Writer.pipe`.

        The stream is closed at the end, also when the run was cancelled or taken over. What it
        raises ends the run as ``failed`` and is raised.
        """
        return self._portal.call(self._it.pipe(stream, format))

    def end(self, status: End = "complete") -> None:
        """End the run, and wait until that is in two regions."""
        self._portal.call(self._it.end(status))

    def suspend(self, detail: Any = None) -> None:
        """Say that this waits for a person or a tool; ``detail``, of 4 KiB at most, says for what.
        It is held on: others leave it alone."""
        self._portal.call(self._it.suspend(detail))

    def resume(self, detail: Any = None) -> None:
        """Say that this goes on after ``suspend``."""
        self._portal.call(self._it.resume(detail))

    def new_inputs(self) -> Iteration[dict[str, Any]]:
        """Each message that is addressed to the run from now on, as it comes, until the run is
        over. Those that were before are ``inputs``."""
        return Iteration(self._portal, self._it.new_inputs(), lambda it: it)

    def stopped(self) -> None:
        """Until the run was cancelled or taken over, or is held no more."""
        self._portal.call(self._it.stopped())

    def close(self) -> None:
        """Let go of it, without an end: when its lease is over, another may claim it. Never
        raises."""
        self._portal.call(self._it.aclose())

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """As of a writer's block."""
        self._portal.call(self._it.__aexit__(kind, *rest))
