"""What clients saw, in order: the only thing that the checkers look at."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Acked(NamedTuple):
    """A region acknowledged a writer's items (or a whole message): counts of the lane.

    ``made``: how many the writer had made when it asked, at ``began_s``.
    """

    at_s: float
    writer: str
    message: str
    accepted: int
    stable: int
    ended: str | None
    disk: str
    began_s: float = 0.0
    made: int = 0


class Claimed(NamedTuple):
    """A takeover was answered: the writer goes on after ``text``."""

    at_s: float
    writer: str
    message: str
    text: str
    mode: str
    disk: str = ""
    began_s: float = 0.0


class CarriedOut(NamedTuple):
    """A region answered a takeover, or an open: also one that was asked for twice, and that nobody
    heard."""

    began_s: float
    writer: str
    message: str
    disk: str


class Stopped(NamedTuple):
    """A writer was refused for good, or ended."""

    at_s: float
    writer: str
    message: str
    code: str


class Asked(NamedTuple):
    """A ``cancel`` or ``delete`` was asked for and not refused, and perhaps acknowledged."""

    at_s: float
    what: str
    message: str
    acked: bool
    disk: str


class Shown(NamedTuple):
    """What a reader holds of one message after an event."""

    at_s: float
    reader: str
    region: str
    event: str
    reason: str | None
    message: str
    text: str | None
    status: str
    connected_s: float


class Waited(NamedTuple):
    """A reader that came back was held with all that it follows, for so long."""

    at_s: float
    reader: str
    session: str
    region: str
    held_s: float


class Called(NamedTuple):
    """A request that got no proper answer: ``code`` is that of the refusal, or ``lost``."""

    began_s: float
    ended_s: float
    who: str
    region: str
    verb: str
    code: str


class Disturbed(NamedTuple):
    """A fault concerned a place (a region, or a client's way to one), in this time."""

    place: str
    began_s: float
    ended_s: float
    what: str


class Seen(NamedTuple):
    """A message as a snapshot or a reader shows it in the end."""

    text: str
    status: str
    length: int


def as_seen(message: dict[str, Any]) -> Seen:
    """A message of a region's answer."""
    return Seen(message["text"], message["status"], message["length"])


class Looked(NamedTuple):
    """A region was asked for the messages of a session at ``began_s``, and answered."""

    at_s: float
    session: str
    region: str
    disk: str
    seen: dict[str, Seen]
    began_s: float = 0.0


class Act(NamedTuple):
    """What somebody did to be here or away: ``comes`` (asks), ``here`` (is told something), ``put``
    (is acknowledged), ``drops``, ``leaves`` (asks), ``left`` (is acknowledged)."""

    at_s: float
    session: str
    who: str
    what: str
    region: str


class Met(NamedTuple):
    """A region was asked who is in a session, and answered."""

    began_s: float
    at_s: float
    session: str
    region: str
    disk: str
    names: frozenset[str]


class Sign(NamedTuple):
    """An agent that holds a run was heard by a region: it claimed, wrote, or renewed."""

    at_s: float
    run: str
    who: str
    region: str


class Ran(NamedTuple):
    """A region was asked for its runs: by id, the status, and who holds it."""

    began_s: float
    at_s: float
    region: str
    shown: dict[str, tuple[str, str]]


class Announced(NamedTuple):
    """A reader was told that somebody is here, or away; ``connected_s``: since when it was
    connected."""

    at_s: float
    reader: str
    connected_s: float
    who: str
    here: bool


class Edited(NamedTuple):
    """A region acknowledged a token that was added to a shared document."""

    at_s: float
    session: str
    who: str
    token: str
    disk: str


class Draft(NamedTuple):
    """A shared document as a region shows it, or (without a version) as somebody holds it."""

    text: str
    json: dict[str, Any]
    version: str


@dataclass
class Writer:
    """What a writer was going to write, token by token; ``whole``: as one message.

    ``finished``: it was told that everything is stable. ``alive``: it went on to the end.
    """

    name: str
    message: str
    tokens: list[str]
    opens: bool
    mode: str = "open"
    ended: bool = True
    finished: bool = False
    alive: bool = True
    stopped: str | None = None
    broken: list[str] = field(default_factory=list)


@dataclass
class History:
    """Everything that was observed in one simulation."""

    regions: list[str]
    sessions: list[str]
    acked: list[Acked] = field(default_factory=list)
    claimed: list[Claimed] = field(default_factory=list)
    # Takeovers; and opens.
    carried_out: list[CarriedOut] = field(default_factory=list)
    opened: list[CarriedOut] = field(default_factory=list)
    stopped: list[Stopped] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    waited: list[Waited] = field(default_factory=list)
    looked: list[Looked] = field(default_factory=list)
    called: list[Called] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    met: list[Met] = field(default_factory=list)
    final_met: list[Met] = field(default_factory=list)
    # How many connections and leases each region knows of in the end, as it says.
    final_present: dict[str, int] = field(default_factory=dict)
    announced: list[Announced] = field(default_factory=list)
    # Runs that were asked for, and the disk that acknowledged it; what was said to them: (run,
    # message, disk).
    requested: dict[str, str] = field(default_factory=dict)
    inputs: list[tuple[str, str, str]] = field(default_factory=list)
    signs: list[Sign] = field(default_factory=list)
    ran: list[Ran] = field(default_factory=list)
    final_runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Tokens of shared documents, by session; those that were written live, and those taken out.
    tokens: dict[str, set[str]] = field(default_factory=dict)
    edited: list[Edited] = field(default_factory=list)
    live: list[tuple[str, str]] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)
    # The number that somebody set last, by session and name.
    numbered: dict[tuple[str, str], int] = field(default_factory=dict)
    # By session, and region or editor: what is held in the end.
    drafts: dict[tuple[str, str], Draft] = field(default_factory=dict)
    # Who is here in the end, on purpose.
    stay: set[str] = field(default_factory=set)
    disturbed: list[Disturbed] = field(default_factory=list)
    # Readers' views that cannot go on: what the reducer said.
    out_of_step: list[str] = field(default_factory=list)
    # Processes that ended though nobody ended them, or not as they were told: (when, region, how).
    deaths: list[tuple[float, str, str]] = field(default_factory=list)
    # Disks that were lost for good, and when.
    lost_disks: dict[str, float] = field(default_factory=dict)
    # Disks that are older copies of one that was lost.
    old_disks: set[str] = field(default_factory=set)
    writers: dict[str, Writer] = field(default_factory=dict)
    # By region or reader, then by message.
    final: dict[str, dict[str, Seen]] = field(default_factory=dict)
    final_readers: dict[str, dict[str, Seen]] = field(default_factory=dict)
    # How long after the heal all regions were equal; None: not within the bound.
    equal_after_s: float | None = None
    # And how long after the last writer had said everything.
    converged_s: float = 0.0
    # By region and message that it knows to be deleted: whether that is gone everywhere. And what
    # disks hold of such messages.
    erasures: dict[tuple[str, str], str] = field(default_factory=dict)
    remains: list[str] = field(default_factory=list)
    verified: dict[str, Any] = field(default_factory=dict)
    calls: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def accepted_holds(self, ack: Acked | Claimed | Asked | Edited) -> bool:
        """Whether the disk that acknowledged it was kept ever since (an answer may still be on its
        way when the disk is lost). No two disks have one name."""
        return ack.disk not in self.lost_disks
