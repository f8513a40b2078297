"""``python -m ministn COMMAND``: what can be done without writing a program."""

from __future__ import annotations

import argparse
import sys

from ministn import doctor, report

parser = argparse.ArgumentParser(prog="python -m ministn", description="Spatial Transformer Networks from scratch.")
commands = parser.add_subparsers(metavar="COMMAND", required=True)
doctor.add_arguments(commands.add_parser("doctor", help="what ministn finds here, and what to install"))
report.add_arguments(commands.add_parser("report", help="one page of what a run has left, pictures and all"))
options = parser.parse_args()
sys.exit(options.main(options))
