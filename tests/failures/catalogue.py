"""The failures that perdure must survive: what happens, and what is expected then.

An id stays what it is; tests name it with ``@pytest.mark.failure("P1")``. One that no test can show
yet says in ``open`` why; one that tests show in part says in ``missing`` what they do not.
"""

from typing import NamedTuple

SECTIONS = {
    "P": "Processes and disks",
    "N": "Network",
    "C": "Replication and membership",
    "X": "Input",
    "L": "Load",
    "S": "Security",
}
WEBHOOKS = "comes with webhooks"
ADMIN = "comes with the admin page"


class Failure(NamedTuple):
    """One thing that may happen, and what is expected then."""

    id: str
    scenario: str
    expected: str
    open: str = ""
    missing: str = ""


PROCESSES = [
    Failure(
        "P1",
        "killed before the write reaches the log",
        "the client is cut off; its repetition elsewhere counts once",
    ),
    Failure(
        "P2",
        "killed after the write, before the fsync",
        "not acknowledged; after the start it is there whole or not at all, and the repetition is"
        " the same item",
    ),
    Failure(
        "P3",
        "killed after the fsync, before the answer",
        "the repetition is answered as a duplicate, in the same epoch",
    ),
    Failure(
        "P4",
        "killed after the answer, before gossip",
        "`accepted`: there after the start, elsewhere late but without a gap; `stable`: cannot be",
    ),
    Failure(
        "P5",
        "killed while it applies gossip, stores sessions or ends a log",
        "the old or the new, never half of it",
    ),
    Failure(
        "P6",
        "power cut: what was not synced is gone, the last record is torn",
        "everything acknowledged is there, the torn end is left out, it starts",
    ),
    Failure(
        "P7",
        "no room on the disk",
        "writes get 507 with `Retry-After`; reads and the other regions go on; no loop of crashes;"
        " goes on without a restart",
    ),
    Failure(
        "P8",
        "an fsync fails",
        "never acknowledged and never tried again: not ready, and the process ends",
    ),
    Failure(
        "P9",
        "bits flip in what is stored",
        "found by checksums, put aside, fetched from a peer; never gossiped, and nothing is deleted"
        " at the peers",
    ),
    Failure(
        "P10",
        "the database is deleted, cut off or taken away while it is in use",
        "nothing more is acknowledged that is not kept; not ready, and the process ends",
    ),
    Failure(
        "P11",
        "stopped for a minute, then resumed",
        "no acknowledgement of what is not on disk; same incarnation; catches up",
    ),
    Failure(
        "P12",
        "killed for its memory, started twenty times in a row",
        "a start does not read the sessions that it holds, however many; each start has an"
        " incarnation of its own, and costs nothing",
    ),
    Failure(
        "P13",
        "terminated in order (SIGTERM)",
        "readers are told to come back elsewhere, nothing is lost, over within 10 s",
    ),
    Failure(
        "P14",
        "started from an old copy of its database",
        "new incarnation, catches up, no lsn is given twice",
    ),
]
NETWORK = [
    Failure(
        "N1",
        "one region cut off, both ways",
        "both sides read and accept; waiting for `stable` ends with the truth; equal within 10 s"
        " of the heal",
    ),
    Failure(
        "N2",
        "cut off in one direction",
        "acknowledgements stay true, links do not storm, a third region carries the rest",
    ),
    Failure("N3", "two regions cut off from each other", "the third carries, and all are equal"),
    Failure(
        "N4",
        "a link that flaps every second for ten minutes",
        "bounded memory, no storm, equal within 10 s",
        missing='ten minutes in the suite; `make hotspots ARGS="--flaps 600"` does them',
    ),
    Failure(
        "N5",
        "a slow peer",
        "a bounded window of its own, then the log; the other peers do not feel it",
    ),
    Failure(
        "N6",
        "a black hole: half-open connections",
        "noticed within 10 s by heartbeats; a reader that takes nothing is given up",
    ),
    Failure(
        "N7",
        "gossip lost, doubled, reordered, late for ten minutes",
        "merged once; what was deleted stays so",
    ),
    Failure(
        "N8",
        "a proxy that forbids upgrades, buffers, or cuts what is idle for 30 s",
        "keep-alives within 15 s, headers that forbid buffering and transforming; the client goes"
        " on exactly, over another transport where it must",
    ),
    Failure(
        "N9",
        "an answer cut short, with a wrong length, or a proxy's 502 page",
        "refused, and tried again",
    ),
    Failure(
        "N10", "a peer's name no longer resolves, or to another address", "backs off; recovers"
    ),
]
REPLICATION = [
    Failure(
        "C1",
        "back after longer than the logs reach",
        "catches up in bounded pieces, offers what it alone has, resurrects nothing",
    ),
    Failure(
        "C2",
        "replaced by one of the same name with an empty disk",
        "new incarnation, serves nobody before it has caught up, no lsn is given twice",
    ),
    Failure(
        "C3",
        "two live nodes of one name",
        "the newer is refused, is not ready, and ends with a code of its own; the older goes on",
    ),
    Failure(
        "C4",
        "a region removed for good",
        "forgotten everywhere; what comes late of it is refused",
    ),
    Failure(
        "C5",
        "clocks an hour ahead, an hour late, or set back",
        "order and deduplication do not depend on them; grants allow for at most 60 s; timers are"
        " monotonic",
        missing="an alarm for a clock that is far ahead",
    ),
    Failure(
        "C6",
        "regions of two versions side by side",
        "what the older does not know is kept, handed on, and applied once it does; versions are"
        " agreed upon",
    ),
    Failure(
        "C7",
        "a poisoned operation or frame",
        "refused or set aside, and counted; the peer lives, the region goes on",
        missing="a record of 16 MiB, which no sound region makes, holds up the loop for seconds",
    ),
    Failure(
        "C8",
        "two contents for one place of a lane, in two regions",
        "one winner everywhere, readers get a `replace`, the writer is told",
    ),
    Failure(
        "C9",
        "an end, a cancel or a delete while others append",
        "a defined outcome, the same in all regions",
    ),
    Failure("C10", "something is written while a reader subscribes", "it arrives exactly once"),
    Failure(
        "C11",
        "an agent dies and goes on in another region",
        "one continuous text, or an announced replacement",
    ),
    Failure(
        "C12",
        "presence: the owner's region dies; a member leaves during a cut",
        "hidden within 10 s, back without duplicates, never resurrected",
    ),
    Failure("C13", "presence: a client flaps ten times a second", "coalesced"),
]
INPUT = [
    Failure(
        "X1",
        "a token of the greatest size, and one byte more",
        "taken; 413, and the connection goes on",
    ),
    Failure("X2", "invalid UTF-8, overlong forms, lone surrogates", "400, never 500"),
    Failure(
        "X3",
        "NUL, U+2028, CR, CRLF, joiners, an emoji cut between tokens",
        "come back byte for byte",
    ),
    Failure(
        "X4",
        "empty tokens, a million tokens of one character, ten thousand epochs of one message",
        "work grows with what is written, not faster",
        missing="an append costs as much as its message has epochs",
    ),
    Failure(
        "X5",
        "JSON nested 100,000 deep, 5,000 digits, keys given twice, NaN, 100,000 keys",
        "refused (400), within 50 ms of work",
    ),
    Failure(
        "X6",
        "a cursor that is garbage, another session's, from the future, huge, with line ends",
        "400, a fresh snapshot, or a hold; never another session's text",
    ),
    Failure("X7", "a repetition a day, or a million tokens, later", "still a duplicate"),
]
LOAD = [
    Failure(
        "L1",
        "a reader that stalls",
        "bounded, then cut, and resumes by its cursor; the others do not feel it",
    ),
    Failure(
        "L2",
        "5,000 clients come back at once after a region died",
        "spread by jitter; only 503 with `Retry-After`; over within 15 s",
        missing="5,000 in the suite, which has 1,000; `make hotspots` has them",
    ),
    Failure(
        "L3",
        "100,000 idle sessions",
        "they leave memory, and come back as they were",
        missing="an hour under load without growth",
    ),
    Failure(
        "L4",
        "heads and bodies byte by byte, 10,000 idle connections",
        "a head has 15 s, a body 30 s, then the connection is closed; streams have a limit by"
        " address",
        missing="a limit on connections of one address that ask for nothing",
    ),
    Failure(
        "L5",
        "a body beyond the limit without a length; a bomb of compressed bytes",
        "cut at the limit; nothing is ever inflated",
    ),
    Failure(
        "L6",
        "2,000 readers of one session",
        "events are encoded and joined once for all of them",
        missing="what others feel of it is measured by `make bench`",
    ),
    Failure("L7", "a webhook's receiver is slow or away", "others do not feel it", open=WEBHOOKS),
]
SECURITY = [
    Failure(
        "S1",
        "grants: none, another algorithm or secret, a key of their own, another audience, not yet,"
        " expired, without end",
        "401",
    ),
    Failure(
        "S2",
        "a grant expires in the middle of a stream",
        "told, then closed; renewed in place without a gap",
    ),
    Failure("S3", "keys are rotated", "old and new overlap, then the old is cut"),
    Failure(
        "S4",
        "a grant, a subject or a session is revoked",
        "cut in all regions within 5 s, also after a restart",
    ),
    Failure(
        "S5",
        "everybody asks for everything",
        "denied unless granted, and the refusal does not tell what exists",
    ),
    Failure(
        "S6",
        "the cursor of another session, or of somebody else",
        "it opens nothing: the grant decides, and the text is this session's",
    ),
    Failure("S7", "a producer or member that is not the grant's subject", "403"),
    Failure(
        "S8",
        "the peer port: strangers, altered or recorded frames, a client's grant",
        "refused, counted, and the link closed",
    ),
    Failure("S9", "a webhook that leads inside", "blocked when it connects", open=WEBHOOKS),
    Failure(
        "S10",
        "ids that are paths, NUL, confusable or 4 KB long",
        "refused (400) by a list of what is allowed; nothing is cut or mended",
    ),
    Failure(
        "S11",
        "fields of an event stream in a token, a name or an id",
        "the client sees the text as it is",
    ),
    Failure(
        "S12",
        "line ends and terminal codes in what is logged or sent back",
        "escaped: nothing begins a line or a header of its own",
    ),
    Failure("S13", "markup in what the admin page shows", "shown as text", open=ADMIN),
    Failure(
        "S14",
        "pages of other origins",
        "only listed origins, never with credentials",
        missing=f"what {ADMIN}",
    ),
    Failure(
        "S15",
        "operators' pages and errors",
        "need a grant, and tell nothing of the inside",
        missing="metrics, and what " + ADMIN,
    ),
    Failure(
        "S16",
        "secrets guessed by the time that a comparison takes, or by trying",
        "compared in constant time; wrong ones draw from a bucket of their own, by address",
    ),
    Failure(
        "S17",
        "a secret in a query, or one that can be guessed",
        "not logged; does not start",
    ),
    Failure("S18", "a signed webhook is replayed", "refused after 5 minutes", open=WEBHOOKS),
]
CATALOGUE = [*PROCESSES, *NETWORK, *REPLICATION, *INPUT, *LOAD, *SECURITY]
