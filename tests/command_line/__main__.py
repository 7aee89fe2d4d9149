"""``python -m tests.command_line`` writes docs/operating/command-line.md anew, from the parser."""

from tests.command_line.manual import DOCUMENT, written

if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
