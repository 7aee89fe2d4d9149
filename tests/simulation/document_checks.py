"""Promises about shared documents: everybody comes to hold the same, and nothing that was written
is lost, doubled or torn."""

from collections import Counter
from collections.abc import Iterator

from tests.simulation.history import History
from tests.simulation.studio import TOKEN


def drafts(history: History) -> Iterator[str]:
    """In the end every region shows the same of a document, and everybody who has it open too."""
    for session in sorted({session for session, _ in history.drafts}):
        held = {place: d for (where, place), d in history.drafts.items() if where == session}
        if len({repr(draft) for draft in held.values() if draft.version}) > 1:
            yield f"regions show other drafts of {session}: {held}"
        if len({draft.text for draft in held.values()}) > 1:
            yield f"editors of {session} hold another text than regions: {held}"


def edits(history: History) -> Iterator[str]:
    """What was written live is there, and what was acknowledged on a disk that was kept; each once,
    and whole; and what was taken out is not.

    Where a disk was lost the key of an append may have been lost with it, while its text goes on in
    the document of somebody who edits live: asked for again it is there twice.
    """
    keys_kept = not (history.lost_disks or history.old_disks)
    for (session, place), draft in history.drafts.items():
        found = Counter(TOKEN.findall(draft.text))
        if "".join(TOKEN.findall(draft.text)) != draft.text:
            yield f"{place} shows a torn end of {session}: {draft.text}"
        for token, count in found.items():
            if token not in history.tokens.get(session, ()):
                yield f"{place} shows in {session} what nobody wrote: {token}"
            elif count > 1 and keys_kept:
                yield f"{place} shows {token} {count} times"
            elif token in history.dropped:
                yield f"{place} shows {token}, which was taken out"
        kept = [token for where, token in history.live if where == session]
        kept += [
            edit.token
            for edit in history.edited
            if edit.session == session and history.accepted_holds(edit)
        ]
        for token in kept:
            if token not in found and token not in history.dropped:
                yield f"{place} does not show {token} of {session}"


def numbers(history: History) -> Iterator[str]:
    """What somebody set last, long after everything else, is what every region shows."""
    for (session, who), number in history.numbered.items():
        for (where, place), draft in history.drafts.items():
            if where == session and draft.version and draft.json.get(who) != number:
                yield f"{place} shows {draft.json.get(who)} for {who}, and it is {number}"
