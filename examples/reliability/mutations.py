"""Do the tests notice a mistake? Make small ones in the kernels and the core, one at a time, and run the tests.

    python examples/reliability/mutations.py --jobs 2                               # 20 mistakes in each file
    python examples/reliability/mutations.py --each 100 --files ministn/optim/*.py  # more of them, in some files
    python examples/reliability/mutations.py --each 5 --show                        # only show what would be changed

Needs Cosmic Ray (pip install -e ".[mutations]"), which finds the places and makes the changes: + becomes -, < becomes
<=, a number becomes one more or less, a condition its opposite, a loop has no iterations, and so on (OPERATORS). Which
of all possible ones are tried follows from --seed. Each is made in a copy of the working tree, and the file's own tests
(TESTS) run there until the first fails. Outcomes:

killed      a test failed, or the file could not be imported
crashed     the process died: killed, too
timed out   the tests took three times as long as without a mistake, and a minute: killed, too
survived    all tests passed. Then a test is missing, or the change makes no difference to what is computed

A row for each file goes to reliability-mutations.json, with the survivors' lines; what was there of the file is
replaced.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import difflib
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ministn import records

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "reliability-mutations.json"
SURVIVED, KILLED, CRASHED, TIMED_OUT = "survived", "killed", "crashed", "timed out"

_OPTIM = ["tests/optim"]
_AUTODIFF = ["tests/test_autodiff.py", "tests/test_ops.py"]
_SAMPLING = ["tests/kernels/test_spatial_transform.py", "tests/kernels/test_grid_sample.py"]
# The core and the CPU kernels, and which tests are there to find a mistake in a file.
TESTS = {
    "ministn/autodiff/function.py": _AUTODIFF,
    "ministn/autodiff/gradcheck.py": _AUTODIFF,
    "ministn/autodiff/tensor.py": _AUTODIFF,
    "ministn/optim/adam.py": _OPTIM,
    "ministn/optim/average.py": _OPTIM,
    "ministn/optim/optimizer.py": [
        *_OPTIM,
        "tests/gpu/test_gpu_training.py::test_an_optimisers_state_follows_the_parameters",
    ],
    "ministn/optim/schedule.py": _OPTIM,
    "ministn/optim/sgd.py": _OPTIM,
    "ministn/nn/transforms.py": ["tests/nn/test_transforms.py"],
    "ministn/kernels/affine_grid/cpu.py": ["tests/kernels/test_affine_grid.py"],
    "ministn/kernels/projective_grid/cpu.py": ["tests/kernels/test_projective_grid.py"],
    "ministn/kernels/thin_plate_spline_grid/cpu.py": ["tests/kernels/test_thin_plate_spline_grid.py"],
    "ministn/kernels/thin_plate_spline_grid/spline.py": ["tests/kernels/test_thin_plate_spline_grid.py"],
    "ministn/kernels/grid_sample/cpu.py": ["tests/kernels/test_grid_sample.py"],
    "ministn/kernels/grid_sample/cpu_nearest.py": ["tests/kernels/test_grid_sample.py"],
    "ministn/kernels/spatial_transform/cpu.py": ["tests/kernels/test_spatial_transform.py"],
    "ministn/kernels/sampling.py": _SAMPLING,
    "ministn/kernels/conv2d/cpu.py": ["tests/kernels/test_conv2d.py"],
    "ministn/kernels/linear/cpu.py": ["tests/kernels/test_linear.py"],
    "ministn/kernels/max_pool2d/cpu.py": ["tests/kernels/test_max_pool2d.py"],
    "ministn/kernels/avg_pool2d/cpu.py": ["tests/kernels/test_avg_pool2d.py"],
}
# Those of Cosmic Ray's operators that make mistakes as people do. Others (a + b to a >> b, no decorator) end in the
# first test, and would make the share of killed ones look better than it is.
OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Mul_Add|Div_Mul|FloorDiv_Mul|FloorDiv_Mod|Mod_FloorDiv"
    r"|Pow_Mul)"
    r"|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_LtE|Lt_GtE|LtE_Lt|LtE_Gt|Gt_GtE|Gt_LtE|GtE_Gt|GtE_Lt|Is_IsNot"
    r"|IsNot_Is)"
    r"|ReplaceUnaryOperator_Delete_(USub|Not|Invert)"
    r"|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd|AddNot"
    r"|ReplaceBreakWithContinue|ReplaceContinueWithBreak|ExceptionReplacer|NumberReplacer|ZeroIterationForLoop)"
)


@dataclass(frozen=True)
class Mutant:
    """One mistake in one file."""

    file: str
    operator: str
    source: str  # the file with the mistake
    line: int  # where, from 1
    before: str
    after: str


def places(source: str) -> list[tuple[str, int]]:
    """Each operator and place of a source text that it can change."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    nodes, found = list(ast_nodes(get_ast(source))), []
    for name in filter(OPERATORS.fullmatch, plugins.operator_names()):
        operator = plugins.get_operator(name)()
        found += [(name, i) for i in range(sum(len(list(operator.mutation_positions(node))) for node in nodes))]
    return found


def make_mutant(file: str, source: str, operator: str, place: int) -> Mutant:
    """Make one change to a source text."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    mutated = mutate_code(source, plugins.get_operator(operator)(), place)
    before, after = source.splitlines(), mutated.splitlines()
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    (change,) = [opcode for opcode in matcher.get_opcodes() if opcode[0] != "equal"]
    _, start, stop, new_start, new_stop = change
    texts = (" ".join(line.strip() for line in lines) for lines in (before[start:stop], after[new_start:new_stop]))
    return Mutant(file, operator.removeprefix("core/"), mutated, start + 1, *texts)


def chosen(file: str, each: int, seed: int) -> tuple[list[Mutant], int]:
    """So many of a file's mutants, in the order of its lines, and how many there are."""
    source = (ROOT / file).read_text()
    possible = places(source)
    sample = random.Random(f"{seed} {file}").sample(possible, min(each, len(possible)))
    return sorted((make_mutant(file, source, *place) for place in sample), key=lambda m: m.line), len(possible)


def copy_working_tree(to: Path) -> None:
    """Copy what git knows or would add, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def run_tests(folder: Path, tests: Sequence[str], seconds: float | None = None) -> str:
    """Run tests in a copy of the working tree; returns the outcome."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",  # a .pyc may look newer than a file that was changed within the same second
        "NUMBA_CACHE_DIR": str(folder / ".kernels"),
    }
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that the tests' own processes can be ended with them
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except BaseException as error:  # Ctrl-C, too, must leave nothing running
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                return TIMED_OUT
            raise
    if process.returncode < 0:
        return CRASHED
    if process.returncode not in (0, 1, 2, 4):  # 2, 4: an error while tests or conftest.py are imported
        raise RuntimeError(f"pytest {' '.join(tests)}: exit code {process.returncode}\n{output[-2000:]}")
    return KILLED if process.returncode else SURVIVED


def try_out(folder: Path, mutant: Mutant, seconds: float) -> str:
    """Make the mistake in a copy of the working tree, run the tests, and take the mistake back."""
    path = folder / mutant.file
    sound = path.read_text()
    try:
        path.write_text(mutant.source)
        return run_tests(folder, TESTS[mutant.file], seconds)
    finally:
        path.write_text(sound)


def try_file(file: str, folders: Sequence[Path], each: int, seed: int) -> dict[str, Any]:
    """Try the chosen mutants of a file, in several copies of the working tree at once; returns its row."""
    tried, possible = chosen(file, each, seed)
    # Without a mistake the tests must pass. They take longest now, while all is compiled.
    start = time.perf_counter()
    if run_tests(folders[0], TESTS[file]) != SURVIVED:
        raise SystemExit(f"{file}: its tests fail without a mistake: {' '.join(TESTS[file])}")
    seconds = 60 + 3 * len(folders) * (time.perf_counter() - start)
    free: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for folder in folders:
        free.put(folder)

    def outcome(mutant: Mutant) -> str:
        folder = free.get()
        try:
            return try_out(folder, mutant, seconds)
        finally:
            free.put(folder)

    with concurrent.futures.ThreadPoolExecutor(len(folders)) as pool:
        outcomes = list(tqdm(pool.map(outcome, tried), file, len(tried)))
    counts = Counter(outcomes)
    return {
        "file": file,
        "tests": TESTS[file],
        "possible": possible,
        "tried": len(tried),
        **{name: counts[name] for name in (KILLED, CRASHED, TIMED_OUT, SURVIVED)},
        "seed": seed,
        "survivors": [
            {"line": mutant.line, "operator": mutant.operator, "before": mutant.before, "after": mutant.after}
            for mutant, result in zip(tried, outcomes, strict=True)
            if result == SURVIVED
        ],
        **records.code_version(),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", default=list(TESTS), metavar="FILE", help="which (all in TESTS)")
    parser.add_argument("--each", type=int, default=20, help="how many mistakes in each file (20)")
    parser.add_argument("--seed", type=int, default=0, help="which of the possible ones (0)")
    parser.add_argument("--jobs", type=int, default=1, help="how many at the same time (1)")
    parser.add_argument("--show", action="store_true", help="show the mistakes, and run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file of the results")
    options = parser.parse_args(argv)
    for file in options.files:
        if file not in TESTS:
            parser.error(f"--files: expected files of {', '.join(TESTS)}, got {file}")
    if options.show:
        for file in options.files:
            for mutant in chosen(file, options.each, options.seed)[0]:
                print(f"{file}:{mutant.line}: {mutant.operator}\n  - {mutant.before}\n  + {mutant.after}")
        return 0
    rows = {row["file"]: row for row in json.loads(options.out.read_text())} if options.out.exists() else {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / str(job) for job in range(options.jobs)]
        for folder in folders:
            copy_working_tree(folder)
        for file in options.files:
            rows[file] = try_file(file, folders, options.each, options.seed)
            in_order = [rows[name] for name in TESTS if name in rows]
            records.write_atomically(options.out, (json.dumps(in_order, indent=1) + "\n").encode())
            for survivor in rows[file]["survivors"]:
                print(f"{file}:{survivor['line']}: survived\n  - {survivor['before']}\n  + {survivor['after']}")
    tried, survived = (sum(rows[file][name] for file in options.files) for name in ("tried", SURVIVED))
    print(f"{tried - survived} of {tried} killed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
