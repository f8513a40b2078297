"""examples/reliability/mutations.py: which mistakes it makes, and what becomes of them."""

import json
import subprocess

import mutations
import pytest

MODULE = '''"""1 + 1"""
import os, signal

def half(x):
    return x / 2

def count(to):
    n = 0
    while n < to:
        n += 1
    return n

def dies_below(limit, x):
    if x < limit:
        os.kill(os.getpid(), signal.SIGKILL)
    return x

def unseen(x, fast=True):
    return x
'''
TESTS = """
import module

def test_half():
    assert module.half(3) == 1.5

def test_count():
    assert module.count(3) == 3

def test_dies_below():
    assert module.dies_below(5, 7) == 7

def test_unseen():
    assert module.unseen(4) == 4
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A git repository with a module and its tests, in place of this one."""
    pytest.importorskip("cosmic_ray", reason="needs Cosmic Ray, which makes the mistakes")
    root = tmp_path / "project"
    root.mkdir()
    (root / "module.py").write_text(MODULE)
    (root / "test_module.py").write_text(TESTS)
    (root / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n    gpu\n")
    (root / ".gitignore").write_text("ignored\n")
    (root / "ignored").write_text("")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    monkeypatch.setattr(mutations, "ROOT", root)
    monkeypatch.setattr(mutations, "TESTS", {"module.py": ["test_module.py"]})
    return root


def test_the_files_and_their_tests_are_there():
    for file, tests in mutations.TESTS.items():
        for name in (file, *tests):
            assert (mutations.ROOT / name.partition("::")[0]).exists(), name


def test_the_operators_are_known_to_cosmic_ray():
    plugins = pytest.importorskip("cosmic_ray.plugins", reason="needs Cosmic Ray, which makes the mistakes")
    chosen = [name for name in plugins.operator_names() if mutations.OPERATORS.fullmatch(name)]
    assert len(chosen) == 9 + 12 + 3 + 5 + 5


def test_mistakes(project):
    """Each is one change of one line; what is a text, not code, stays."""
    everything, possible = mutations.chosen("module.py", each=1000, seed=0)
    made = {(mutant.line, mutant.before, mutant.after) for mutant in everything}
    assert len(made) == len(everything) == possible
    assert {(before, after) for line, before, after in made if line == 5} == {
        ("return x / 2", "return x * 2"),
        ("return x / 2", "return x / 3"),
        ("return x / 2", "return x / 1"),
    }
    assert {after for line, _, after in made if line == 9} == {"while n <= to:", "while n >= to:", "while not n < to:"}
    assert {line for line, _, _ in made} == {5, 8, 9, 10, 14, 18}
    some, _ = mutations.chosen("module.py", each=5, seed=1)
    assert some == mutations.chosen("module.py", each=5, seed=1)[0] != mutations.chosen("module.py", each=5, seed=2)[0]
    assert len(some) == 5
    assert [mutant.line for mutant in some] == sorted(mutant.line for mutant in some)


def test_outcomes(project, tmp_path):
    copy = tmp_path / "copy"
    mutations.copy_working_tree(copy)
    assert sorted(path.name for path in copy.iterdir()) == [".gitignore", "module.py", "pytest.ini", "test_module.py"]

    def outcome(line, after, seconds=300):
        everything, _ = mutations.chosen("module.py", each=1000, seed=0)
        (mutant,) = [mutant for mutant in everything if (mutant.line, mutant.after) == (line, after)]
        found = mutations.try_out(copy, mutant, seconds)
        assert (copy / "module.py").read_text() == MODULE
        return found

    assert outcome(5, "return x * 2") == "killed"
    assert outcome(14, "if x >= limit:") == "crashed"
    assert outcome(18, "def unseen(x, fast=False):") == "survived"
    assert outcome(10, "n += 0", seconds=5) == "timed out"


def test_results(project, tmp_path, monkeypatch, capsys):
    def try_out(folder, mutant, seconds):
        return "survived" if "unseen" in mutant.before else "crashed" if mutant.line == 14 else "killed"

    monkeypatch.setattr(mutations, "try_out", try_out)
    monkeypatch.setattr(mutations, "run_tests", lambda folder, tests, seconds=None: "survived")
    out = tmp_path / "new" / "results.json"
    for _ in range(2):  # the second time the row is replaced
        assert mutations.main(["--each", "1000", "--jobs", "2", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert (row["file"], row["tests"], row["survived"], row["timed out"]) == ("module.py", ["test_module.py"], 1, 0)
    assert row["possible"] == row["tried"] == row["killed"] + row["crashed"] + 1
    assert row["survivors"] == [
        {
            "line": 18,
            "operator": "ReplaceTrueWithFalse",
            "before": "def unseen(x, fast=True):",
            "after": "def unseen(x, fast=False):",
        }
    ]
    assert capsys.readouterr().out.endswith(f"{row['tried'] - 1} of {row['tried']} killed\n")


def test_tests_that_fail_without_a_mistake(project, tmp_path):
    (project / "test_module.py").write_text("def test(): assert False")
    with pytest.raises(SystemExit, match=r"module\.py: its tests fail without a mistake: test_module\.py"):
        mutations.main(["--out", str(tmp_path / "results.json")])
    assert not (tmp_path / "results.json").exists()


def test_a_file_that_is_not_on_the_list(capsys):
    with pytest.raises(SystemExit):
        mutations.main(["--files", "setup.py"])
    assert "--files: expected files of ministn/autodiff/function.py, " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "each"), [("ministn/optim/sgd.py", 4), ("ministn/kernels/thin_plate_spline_grid/cpu.py", 4)]
)
def test_mistakes_in_the_core_and_in_a_kernel_are_noticed(tmp_path, file, each):
    """A sample of the sample in docs/reliability.md."""
    pytest.importorskip("cosmic_ray", reason="needs Cosmic Ray, which makes the mistakes")
    out = tmp_path / "results.json"
    assert mutations.main(["--files", file, "--each", str(each), "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert row["tried"] == each
    assert row["survived"] <= 1, row["survivors"]  # after a change of the file there may be one that changes nothing
