"""``python -m ministn doctor``: what is there, and what to install."""

from __future__ import annotations

import argparse
import sys

parser = argparse.ArgumentParser(prog="python -m ministn", description="Spatial Transformer Networks from scratch.")
parser.add_argument("command", choices=["doctor"], help="doctor: what ministn finds here, and what to install")
parser.parse_args()

from ministn import doctor  # noqa: E402 (after --help, which needs nothing)

sys.exit(doctor.main())
