"""Do the tests pass elsewhere: on another Python, with the oldest dependencies, on a lesser processor?

    python examples/reliability/environments.py --python python3.13
    python examples/reliability/environments.py --python python3.11 --oldest    # the lower bounds in pyproject.toml
    python examples/reliability/environments.py --processor x86-64-v3           # kernels as without AVX-512
    python examples/reliability/environments.py --python python3.13 --tests tests/nn tests/optim    # some of them

Makes a wheel of this checkout, a virtual environment in a temporary folder, installs the wheel there with what its
tests need, and runs the default tests on it: the installed package is tested, not this folder's. There is no PyTorch
and no CuPy, so what is compared with them is skipped.

A row for each environment goes to reliability-environments.json; that of an environment which was there is replaced.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from ministn import records

ROOT = Path(__file__).parents[2]
# The names under which LLVM knows the generations of x86-64, and what Numba must be told of them beside the name.
PROCESSORS = {"x86-64-v3": "+avx,+avx2,+fma", "x86-64": "+sse2"}


def lower_bounds(pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """The oldest version that is allowed of each dependency, of the package and of its tests, such as "numpy==2.0"."""
    project = tomllib.loads(pyproject.read_text())["project"]
    bounds = []
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        match = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
        if match is None:
            raise ValueError(f"lower_bounds: expected a requirement such as numpy>=2.0, got {requirement!r}")
        bounds.append("==".join(match.groups()))
    return bounds


def counts(junit: Path) -> dict[str, int]:
    """How many tests passed, failed and were skipped, from what pytest --junit-xml has written."""
    (suite,) = ElementTree.parse(junit).getroot().iter("testsuite")
    total, errors, failures, skipped = (int(suite.attrib[name]) for name in ("tests", "errors", "failures", "skipped"))
    return {"passed": total - errors - failures - skipped, "failed": errors + failures, "skipped": skipped}


def run(python: str, oldest: bool, processor: str | None, tests: list[str]) -> dict[str, Any]:
    """Make the environment and run the tests in it; returns the row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "NUMBA_"))}
        environment["NUMBA_CACHE_DIR"] = str(folder / "cache")  # nothing that another Numba has compiled
        if processor is not None:
            environment |= {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": PROCESSORS[processor]}

        def call(*command: str | Path) -> str:
            result = subprocess.run([*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True)
            if result.returncode:
                raise SystemExit(f"{' '.join(map(str, command))}: {(result.stderr or result.stdout)[-2000:]}")
            return result.stdout

        call(python, "-m", "venv", folder / "venv")
        programs = folder / "venv" / "bin"
        call(programs / "python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
        (wheel,) = folder.glob("*.whl")
        call(programs / "python", "-m", "pip", "install", f"{wheel}[test]", *(lower_bounds() if oldest else []))
        where = call(programs / "python", "-P", "-c", "import ministn; print(ministn.__file__)").strip()
        if not Path(where).is_relative_to(folder.resolve()):
            raise SystemExit(f"expected the installed package to be tested, got {where}")
        start, junit = time.perf_counter(), folder / "junit.xml"
        # `pytest`, not `python -m pytest`, which would find the package in the current folder
        subprocess.run(
            [programs / "pytest", f"--junit-xml={junit}", "-q", *tests], cwd=ROOT, env=environment, check=False
        )
        return {
            "python": call(programs / "python", "-c", "import platform; print(platform.python_version())").strip(),
            "oldest": oldest,
            "processor": processor,  # None: the machine's own
            "tests": tests,
            **counts(junit),
            "seconds": round(time.perf_counter() - start),
            "packages": call(programs / "python", "-m", "pip", "freeze", "--exclude", "ministn").split(),
            **records.code_version(),
            "machine": records.environment()["processor"],
        }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter (this one)")
    parser.add_argument("--oldest", action="store_true", help="with the oldest dependencies that are allowed")
    parser.add_argument("--processor", choices=PROCESSORS, help="compile kernels as for this one (for the machine's)")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="files or folders (all)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    options = parser.parse_args(argv)
    path = options.out / "reliability-environments.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    row = run(options.python, options.oldest, options.processor, options.tests)
    keys = ("python", "oldest", "processor", "tests")
    rows = [other for other in rows if any(other[key] != row[key] for key in keys)] + [row]
    options.out.mkdir(parents=True, exist_ok=True)
    records.write_atomically(path, (json.dumps(rows, indent=1) + "\n").encode())
    print(", ".join(f"{row[name]} {name}" for name in ("passed", "failed", "skipped", "seconds")))
    return int(row["failed"] > 0 or row["passed"] == 0)


if __name__ == "__main__":
    sys.exit(main())
