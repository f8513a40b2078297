"""examples/reliability/environments.py, and a few tests of the installed package on other Pythons."""

import json
import os
import subprocess
from pathlib import Path

import environments
import pytest

PYPROJECT = """
[project]
dependencies = ["numpy>=2.0", "threadpoolctl>=3.5"]
[project.optional-dependencies]
test = ["pytest>=8"]
dev = ["ruff>=0.9"]
"""
JUNIT = """<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10" time="0.1">
<testcase name="a"/></testsuite></testsuites>"""


def test_lower_bounds(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text(PYPROJECT)
    assert environments.lower_bounds(path) == ["numpy==2.0", "threadpoolctl==3.5", "pytest==8"]
    path.write_text(PYPROJECT.replace("pytest>=8", "pytest<9"))
    with pytest.raises(ValueError, match=r"expected a requirement such as numpy>=2\.0, got 'pytest<9'"):
        environments.lower_bounds(path)


def test_every_dependency_has_a_lower_bound():
    assert "numpy==2.0" in environments.lower_bounds()


def test_counts(tmp_path):
    path = tmp_path / "junit.xml"
    path.write_text(JUNIT)
    assert environments.counts(path) == {"passed": 4, "failed": 3, "skipped": 3}


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (1, 1)])
def test_a_row_replaces_that_of_the_same_environment(tmp_path, monkeypatch, failed, code):
    def row(python, oldest, processor, tests):
        about = {"python": python, "oldest": oldest, "processor": processor, "tests": tests}
        return {**about, "passed": 9, "failed": failed, "skipped": 0, "seconds": 1}

    of_each = ["--python", "3.12"], ["--python", "3.12", "--oldest"], ["--python", "3.12"]
    monkeypatch.setattr(environments, "run", row)
    for arguments in of_each:
        assert environments.main([*arguments, "--out", str(tmp_path)]) == code
    found = json.loads((tmp_path / "reliability-environments.json").read_text())
    assert [row["oldest"] for row in found] == [True, False]


def interpreter(version):
    """A Python of this version, from the path or pyenv; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for python in (f"python{version}", *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))):
        try:
            subprocess.run([python, "-c", ""], check=True, capture_output=True)
            return str(python)
        except (OSError, subprocess.CalledProcessError):  # pyenv's own python3.12 fails where that is not chosen
            continue
    return None


@pytest.mark.slow
@pytest.mark.parametrize(("version", "oldest"), [("3.11", True), ("3.12", False), ("3.13", False)])
def test_other_environments(version, oldest):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version}")
    row = environments.run(python, oldest, None, ["tests/optim", "tests/kernels/test_affine_grid.py"])
    assert row["python"].startswith(version)
    assert row["failed"] == 0
    assert row["passed"] > 100
    assert ("numpy==2.0.0" in row["packages"]) == oldest
