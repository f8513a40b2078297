"""What the site is built with: names that vanish, formulas that fail and broken pages must not pass unseen."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("sphinx", reason='needs what builds the site: pip install -e ".[docs]"')
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

import check  # noqa: E402
import mathml  # noqa: E402
import sources  # noqa: E402

CUDA = """// A comment
// of two lines.
template <int T>
__device__ inline void place(
    int a) {
    if (a) { b(); }  // }
}

extern "C" __global__ void place_all(int a) { place(a); }

struct Taps {
    int m;
};
"""
PYTHON = '''import a


# Why.
@decorated
def one():
    return 1


class Two:
    def three(self):
        """Text."""
'''


@pytest.mark.parametrize(
    ("text", "suffix", "name", "first", "last"),
    [
        (CUDA, ".cu", "place", "// A comment", "}"),
        (CUDA, ".cu", "place_all", 'extern "C" __global__ void place_all(int a) { place(a); }', None),
        (CUDA, ".cu", "Taps", "struct Taps {", "};"),
        (PYTHON, ".py", "one", "# Why.", "    return 1"),
        (PYTHON, ".py", "Two.three", "    def three(self):", '        """Text."""'),
    ],
)
def test_definition_is_quoted_whole(text, suffix, name, first, last):
    start, end = sources.definition(text, name, suffix)
    lines = text.splitlines()[start:end]
    assert lines[0] == first
    assert lines[-1] == (last or first)


@pytest.mark.parametrize(("text", "suffix"), [(CUDA, ".cu"), (PYTHON, ".py")])
def test_a_name_that_vanished_is_an_error(text, suffix):
    with pytest.raises(LookupError, match="expected one definition of gone, found 0"):
        sources.definition(text, "gone", suffix)
    with pytest.raises(LookupError, match="found 2"):
        sources.definition(text + "\n" + text, "place" if suffix == ".cu" else "one", suffix)


def test_links_of_a_readme_lead_into_the_site():
    folder = ROOT / "ministn" / "kernels" / "grid_sample"
    text = (
        "[a](cpu.py) [b](../affine_grid/) [c](../../../docs/gpu.md#speed) "
        "`[d](cpu.py)` [e](https://x.org) [`f`](none.py)"
    )
    assert sources.with_links(text, folder) == (
        "[a](source:ministn/kernels/grid_sample/cpu.py) [b](/kernels/affine_grid.md) [c](/gpu.md#speed) "
        "`[d](cpu.py)` [e](https://x.org) [`f`](none.py)"  # what does not exist is left to Sphinx, as an error
    )


def test_formulas():
    assert "<mn>1</mn>" in mathml.mathml(r"\tfrac12", block=False)
    assert "with align_corners" in mathml.mathml(r"\text{with align\_corners}", block=True)
    assert '"false">⌊' in mathml.mathml(r"\lfloor x \rfloor", block=False)
    assert "<mo>⌊" in mathml.mathml(r"\left\lfloor x \right\rfloor", block=False)
    for wrong in (r"\nosuchcommand", r"\frac{1}", r"\underbrace{x}_{y}"):
        with pytest.raises(mathml.MathError):
            mathml.mathml(wrong, block=False)


def test_check_finds_what_is_wrong(tmp_path):
    (tmp_path / "good.html").write_text(
        '<html lang="en"><h1 id="top">T</h1><h2>S</h2><img src="a.png" alt="A"><a href="#top">t</a></html>'
    )
    assert check.faults(tmp_path) == []
    (tmp_path / "bad.html").write_text(
        '<html><h1>T</h1><h3>S</h3><img src="https://x.org/a.png">'
        '<a href="gone.html">g</a><a href="good.html#no">n</a></html>'
    )
    assert check.faults(tmp_path) == [
        "bad.html: the page does not say its language",
        "bad.html: no description of https://x.org/a.png",
        "bad.html: loads https://x.org/a.png",
        "bad.html: a heading of level 3 below one of level 1",
        "bad.html: links to gone.html, which does not exist",
        "bad.html: links to good.html#no: no such place on that page",
    ]
