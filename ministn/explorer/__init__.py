"""``python -m ministn explore``: a page on this machine on which one drags theta and sees what it does.

`look` computes what the page shows, `network` reads the run of a training, `server` hands out the page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument(
        "run",
        nargs="?",
        type=Path,
        metavar="RUN",
        help="a run folder of examples/train_mnist.py or examples/reproduce_table1.py, whose network shall transform",
    )
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1 (a free one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the page's address")
    parser.add_argument("--data-dir", type=Path, help="a folder with the MNIST files, to pick digits from")


def main(options: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; 2 if the run, the data or the port is not to be had."""
    from ministn.data import DataError
    from ministn.explorer import look, network, server
    from ministn.records import CheckpointError

    try:
        trained = None if options.run is None else network.read_run(options.run.expanduser())
        digits = look.load_digits(options.data_dir)
        explorer = look.Explorer(digits, trained)
        page = server.Server(explorer, options.port)
    except (CheckpointError, DataError) as error:
        print(f"explore: {error}", file=sys.stderr)
        return 2
    except (OSError, OverflowError) as error:  # OverflowError: no such port
        print(f"explore: cannot serve on 127.0.0.1, port {options.port}: {error}", file=sys.stderr)
        return 2
    print("compiling kernels (first run only) ...", flush=True)
    explorer.warm_up()
    page.run(open_browser=not options.no_browser)
    return 0
