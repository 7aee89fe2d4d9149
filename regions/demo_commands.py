"""``perdure dev`` and ``perdure demo``: what they are told."""

import argparse
import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from perdure.regions.cluster import Mint
from perdure.regions.config import PORT_MAX, ConfigError
from perdure.regions.demo import TOKENS_PER_S, TOKENS_PER_S_MAX, failover
from perdure.regions.demo_chat import chat
from perdure.regions.dev import FIRST_PORT, PEER_PORTS_ABOVE, dev


def add_dev(commands: Any, mint: Mint) -> None:
    """Add the command to the parser's subcommands; ``mint`` signs the grants of its regions."""
    text = "run three regions (eu, us, ap) on ports 7101 to 7103 (or --port), until Ctrl-C"
    codes = "Exit codes: 0 stopped, 1 a region did not start, 2 wrong arguments."
    dev_parser = commands.add_parser("dev", help=text, description=text, epilog=codes)
    dev_parser.add_argument(
        "--data", type=Path, default=Path(".data/dev"), metavar="DIR", help="(.data/dev)"
    )
    text = (
        f"of the first region; the others have the next two, and regions hear each other at those"
        f" {PEER_PORTS_ABOVE} higher ({FIRST_PORT})"
    )
    dev_parser.add_argument("--port", type=int, default=FIRST_PORT, help=text)
    dev_parser.set_defaults(run=partial(_dev, mint))


def add_demo(commands: Any, mint: Mint) -> None:
    """Likewise."""
    text = "show what it does, on this machine"
    codes = "Exit codes: 0 it did, 1 it did not, 2 wrong arguments, 130 interrupted."
    demo_parser = commands.add_parser("demo", help=text, description=text, epilog=codes)
    demos = demo_parser.add_subparsers(title="demos", metavar="DEMO", required=True)
    text = "an answer streams while a region is killed in the middle of a word; and the proof"
    codes = (
        "Exit codes: 0 nothing was lost, doubled or reordered, 1 something was or the demo failed,"
        " 2 wrong arguments, 130 interrupted."
    )
    failing = demos.add_parser("failover", help=text, description=text, epilog=codes)
    failing.add_argument("--json", action="store_true", help="print the result as JSON")
    failing.add_argument(
        "--tokens-per-s", type=float, default=TOKENS_PER_S, help=f"pace ({TOKENS_PER_S:.0f})"
    )
    failing.set_defaults(run=partial(_demo_failover, mint))
    text = "a page on which windows at several regions share a session with an agent, until Ctrl-C"
    codes = (
        "Exit codes: 0 stopped, 1 a region did not start or the agent failed, 2 wrong arguments."
    )
    chatting = demos.add_parser("chat", help=text, description=text, epilog=codes)
    chatting.add_argument(
        "--port",
        type=int,
        default=FIRST_PORT,
        help=f"of the first region; the others have the next two ({FIRST_PORT})",
    )
    chatting.add_argument("--open", action="store_true", help="open two windows in the browser")
    chatting.set_defaults(run=partial(_demo_chat, mint))


def _dev(mint: Mint, options: argparse.Namespace) -> int:
    most = PORT_MAX - PEER_PORTS_ABOVE - 2
    if not 0 < options.port <= most:
        raise ConfigError(f"--port {options.port} must be 1 to {most}")
    return asyncio.run(dev(options.data, mint, options.port))


def _demo_chat(mint: Mint, options: argparse.Namespace) -> int:
    if not 0 < options.port <= PORT_MAX - 2:
        raise ConfigError(f"--port {options.port} must be 1 to {PORT_MAX - 2}")
    return asyncio.run(chat(mint, options.port, opens=options.open))


def _demo_failover(mint: Mint, options: argparse.Namespace) -> int:
    # Faster, the answer is over before a process can be killed in the middle of it.
    if not 0 < options.tokens_per_s <= TOKENS_PER_S_MAX:
        raise ConfigError(f"--tokens-per-s must be positive, and at most {TOKENS_PER_S_MAX:.0f}")
    return asyncio.run(failover(mint, as_json=options.json, tokens_per_s=options.tokens_per_s))
