"""One page of what a run has left, pictures and all: ``python -m ministn report RUN``.

`runs` reads the folder, `curves` draws lines, `page` puts both together, and ``page.html`` is how that looks. Whoever
is sent the file needs nothing else, no network either.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command is called with."""

    def path(text: str) -> Path:
        return Path(os.path.expanduser(text))

    parser.add_argument(
        "run", type=path, metavar="RUN", help="a folder of examples/train_mnist.py or examples/reproduce_table1.py"
    )
    parser.add_argument("--out", type=path, metavar="FILE", help="the page (RUN/report.html)")


def main(options: argparse.Namespace) -> int:
    """Write the page; 0, or 2 with one line that says what is wrong with the folder or the file."""
    from ministn.records import write_atomically
    from ministn.report.page import render
    from ministn.report.runs import ReportError, read

    out: Path = options.out or options.run / "report.html"
    try:
        run = read(options.run)
        if out.is_dir() or not out.parent.is_dir():  # before anything is drawn
            raise ReportError(f"--out {out}: expected the name of a file in a folder that exists")
        content = render(run).encode()
        write_atomically(out, content)
    except (ReportError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print(f"{out}, {len(content) / 1000:,.0f} kB: open it in a browser")
    return 0
