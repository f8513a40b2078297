"""``python -m ministn COMMAND``: the commands, each of which a module of its own gives."""

from __future__ import annotations

import argparse
import importlib
import sys

COMMANDS = {  # each module has add_arguments(parser) and main(options), and loads nothing heavy before main runs
    "doctor": ("ministn.doctor", "what ministn finds here, and what to install"),
    "explore": ("ministn.explorer", "a page to drag theta on, and to watch a trained network transform"),
    "report": ("ministn.report", "one page of what a run has left, pictures and all"),
}

parser = argparse.ArgumentParser(prog="python -m ministn", description="Spatial Transformer Networks from scratch.")
commands = parser.add_subparsers(required=True, metavar="COMMAND")
for name, (module, help) in COMMANDS.items():
    command = importlib.import_module(module)
    subparser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    command.add_arguments(subparser)
    subparser.set_defaults(main=command.main)

options = parser.parse_args()
sys.exit(options.main(options))
