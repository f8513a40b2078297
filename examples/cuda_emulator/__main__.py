"""``python -m cuda_emulator address|thread COMMAND...``: runs a program whose kernels a sanitizer watches."""

from __future__ import annotations

import argparse
import sys

from cuda_emulator import sanitizers


def main() -> int:
    """The program's exit status, or 1 if there is something to report."""
    parser = argparse.ArgumentParser(prog="python -m cuda_emulator", description=__doc__)
    parser.add_argument("sanitizer", choices=["address", "thread"])
    parser.add_argument("command", nargs=argparse.REMAINDER, help="for example: python my_program.py")
    arguments = parser.parse_args()
    outcome = sanitizers.run(arguments.sanitizer, arguments.command, capture=False)
    print(outcome.reports or "nothing to report", file=sys.stderr)
    return outcome.returncode or bool(outcome.reports)


if __name__ == "__main__":
    sys.exit(main())
