"""What the package promises as a whole: light imports, short files, documents that are true to the code."""

import ast
import builtins
import io
import re
import subprocess
import sys
import tarfile
import tokenize
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ministn"
HEAVY = ["numba", "llvmlite", "cupy", "matplotlib", "scipy", "torch", "pooch", "tqdm", "safetensors"]
FAMILIES = sorted(path.parent for path in (PACKAGE / "kernels").glob("*/op.py"))


def lines_of_code(path):
    """Lines that hold code: not blank, not comment, not docstring."""
    source = path.read_text()
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        and token.type != tokenize.ENDMARKER
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


@pytest.mark.parametrize(
    "module", ["ministn", "ministn.nn", "ministn.optim", "ministn.models", "ministn.data", "ministn.explorer"]
)
def test_import_loads_nothing_heavy(module):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_wheel_and_sdist_have_all_files(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling, which builds the package, is not installed")
    code = f"from hatchling.build import *; [make({str(tmp_path)!r}) for make in (build_wheel, build_sdist)]"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    names = {path.relative_to(ROOT).as_posix() for path in files}
    assert "ministn/py.typed" in names
    assert any(name.endswith(".cu") for name in names)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        assert names <= packed
        (licence,) = (name for name in packed if name.endswith("licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    with tarfile.open(sdist) as archive:
        assert {f"{sdist.name.removesuffix('.tar.gz')}/{name}" for name in names | {"LICENSE"}} <= {*archive.getnames()}


def test_autodiff_is_short():
    assert sum(map(lines_of_code, (PACKAGE / "autodiff").glob("*.py"))) < 300


@pytest.mark.parametrize("family", FAMILIES, ids=lambda path: path.name)
def test_family_is_complete_and_short(family):
    for name in ("README.md", "reference.py", "cpu.py", "op.py"):
        assert (family / name).is_file(), f"{family.name} lacks {name}"
    most = {"grid_sample": 240, "spatial_transform": 200}.get(family.name, 150)  # the two that place samples as vectors
    assert lines_of_code(family / "cpu.py") < most
    assert (ROOT / "tests" / "kernels" / f"test_{family.name}.py").is_file()
    assert f"]({family.name}/)" in (PACKAGE / "kernels" / "README.md").read_text()


def test_compiled_functions_call_helpers_of_their_own_file_only():
    """Numba's disk cache does not see edits in another file: a stale kernel would go on running.

    `compiled`, `simd` and `sampling` are exceptions: the cache looks at them, too (tests/kernels/test_compiled.py).
    """
    shared = [ast.parse((PACKAGE / "kernels" / name).read_text()) for name in ("compiled.py", "simd.py", "sampling.py")]
    allowed = {*dir(builtins), *(node.name for tree in shared for node in tree.body if hasattr(node, "name"))}
    for path in (PACKAGE / "kernels").glob("*/cpu*.py"):
        tree = ast.parse(path.read_text())
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        compiled = [node for node in functions if any("compiled" in ast.unparse(d) for d in node.decorator_list)]
        assert compiled, path
        assert "njit" not in path.read_text(), path
        own = {node.name for node in compiled} | allowed
        for node in compiled:
            calls = [c for line in node.body for c in ast.walk(line) if isinstance(c, ast.Call)]
            called = {c.func.id for c in calls if isinstance(c.func, ast.Name)}
            local = {
                name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            }
            assert called <= own | local, f"{path}: {node.name} calls {sorted(called - own - local)}"


def test_documents_link_to_files_that_exist():
    for document in [ROOT / "README.md", *PACKAGE.rglob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.relative_to(ROOT)} links to {target}"


def test_excerpt_in_the_readme_is_the_code():
    """The README quotes the loop; the quotation must be the loop."""
    readme = (ROOT / "README.md").read_text()
    excerpts = re.findall(r"<!-- from (\S+) -->\n```python\n(.*?)```", readme, re.DOTALL)
    assert excerpts
    for name, code in excerpts:
        assert code in (ROOT / name).read_text(), f"the README's excerpt of {name} has changed there"


def test_readme_examples_run():
    blocks = re.findall(r"<!-- runs -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
