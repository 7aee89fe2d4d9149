"""``perdure rekey``: what it is told, and what it tells."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from perdure.regions.config import STORAGE_KEY, read_storage_keys
from perdure.regions.ports import StorageLocked

EXIT_IN_USE = 3
# How often it says how far it is.
PROGRESS_PERCENT = 5


def add_rekey(commands: Any) -> None:
    """Add the command to the parser's subcommands."""
    text = "encrypt the data of a region with another key; or at first; or not any more"
    codes = (
        "Exit codes: 0 done, 1 the disk failed or is full (what is done stays done; the same"
        " command goes on from there), 2 wrong arguments or keys, and nothing was changed, 3 a"
        " running node has the directory, 130 interrupted (likewise)."
    )
    about = (
        f"Rewrite everything under --data with the first key of {STORAGE_KEY} or {STORAGE_KEY}_FILE"
        " (32 bytes in hex or base64, one key a line; those that it is encrypted with so far, after"
        " the first), and leave nothing of what was before in any file there. The node of the"
        " region must not run. It takes about as much room again as the database."
    )
    rekeying = commands.add_parser("rekey", help=text, description=about, epilog=codes)
    rekeying.add_argument("--data", type=Path, required=True, metavar="DIR", help="data directory")
    rekeying.add_argument(
        "--decrypt", action="store_true", help="leave the data without any encryption"
    )
    rekeying.add_argument("--json", action="store_true", help="print the result as JSON")
    rekeying.set_defaults(run=_rekey)


def _rekey(options: argparse.Namespace) -> int:
    keys = read_storage_keys()
    # Here and not above: other commands start sooner without.
    from perdure.regions.cipher import Cipher, Clear
    from perdure.regions.clock import SystemEntropy
    from perdure.regions.rekey import Rekeying

    told = ("", 0)

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal told
        now = (stage, 100 * done // total // PROGRESS_PERCENT if total else 0)
        if now != told:
            told = now
            print(f"{stage}: {now[1] * PROGRESS_PERCENT} %", file=sys.stderr, flush=True)

    cipher = Cipher(keys, SystemEntropy()) if keys else Clear()
    try:
        report = Rekeying(options.data, cipher, tell).run(decrypt=options.decrypt)
    except StorageLocked as error:
        print(f"perdure: {error}", file=sys.stderr)
        return EXIT_IN_USE
    if options.json:
        print(json.dumps({"data": str(options.data), **vars(report)}))
        return 0
    state = f"encrypted with key {report.key}" if report.key else "not encrypted"
    print(f"{options.data} is {state}; {report.rewritten} blobs were rewritten")
    if report.damaged:
        print(
            f"{report.damaged} could not be decrypted: the region gets them from its peers"
            " (table quarantine has them as they were)"
        )
    return 0
