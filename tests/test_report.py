"""python -m ministn report: the page says what the run has recorded, says what it lacks, and loads nothing."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ministn
from ministn import data, records, report, viz
from ministn.report import curves, runs

ROOT = Path(__file__).parents[1]
HEAVY = ["numba", "matplotlib", "safetensors", "cupy"]
EPOCHS = 2


class Page(HTMLParser):
    """Pictures with their descriptions, headings, text, and all that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[dict[str, str]] = []
        self.fetched: list[str] = re.findall(r"url\(([^)]*)\)|@import", text)
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(values)
        fetched = {"src", "srcset", "data", "poster", "action", "xlink:href"} | ({"href"} if tag != "a" else set())
        self.fetched += [values[name] for name in fetched & values.keys()]

    def handle_data(self, text):
        self.text += text

    def content(self, number: int) -> bytes:
        return base64.b64decode(self.pictures[number]["src"].partition(",")[2], validate=True)


def make(folder: Path, *arguments: str) -> Page:
    """The page of a run; on standard output is one line, on standard error none."""
    assert call(folder, *arguments) == 0
    return Page((folder / "report.html").read_text())


def call(*arguments: object) -> int:
    parser = report.argparse.ArgumentParser()
    report.add_arguments(parser)
    return report.main(parser.parse_args([str(argument) for argument in arguments]))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a small training on drawn digits, with what else could be drawn of it, to be copied in place of
    being drawn by each test."""
    spec = importlib.util.spec_from_file_location("train_mnist", ROOT / "examples" / "train_mnist.py")
    train_mnist = importlib.util.module_from_spec(spec)
    threads, folder = ministn.get_num_threads(), tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "train_mnist", train_mnist)  # dataclasses look their module up there
        spec.loader.exec_module(train_mnist)
        patch.setattr(train_mnist, "MOMENTS", 4)
        small = data.strokes.load(train_size=600, test_size=120, seed=0)
        patch.setattr(data, "load", lambda name, data_dir=None: small)
        assert train_mnist.main(["--epochs", str(EPOCHS), "--seed", "7", "--threads", "1", "--out", str(folder)]) == 0
    ministn.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def drawn(trained, tmp_path_factory) -> Path:
    """That with what can be drawn of its watch, so that not every test draws it."""
    folder = tmp_path_factory.mktemp("runs") / "drawn"
    shutil.copytree(trained, folder)
    watch = viz.Watch.read(folder / "watch.npz")
    viz.mean_images(watch).savefig(folder / "mean_images.png")
    viz.before_and_after(watch).savefig(folder / "before_and_after.png")
    viz.warp_animation(watch, folder / "warp.gif")
    return folder


@pytest.fixture
def run(drawn, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(drawn, tmp_path / "run"))


@pytest.fixture
def table1(drawn, tmp_path) -> Path:
    """The folder of a finished run of reproduce_table1, without its transformer's numbers."""
    folder = tmp_path / "table1"
    folder.mkdir()
    for name in ("watch.npz", "warp.gif", "before_and_after.png", "mean_images.png"):
        shutil.copy(drawn / name, folder)
    settings = {
        "model": "ST-CNN",
        "transform": "affine",
        "data": "RTS",
        "seed": 3,
        "recipe_name": "modern",
        "recipe": {"epochs": 2, "lr": 0.01, "batch_norm": True},
        "digits": "mnist",
        "quick": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    session = {"commit": "0123456789" * 4, "clean": False, "threads": 1, "environment": {"numpy": "2.9.9"}}
    result = {
        "parameters": 398_933,
        "test_images": 10_000,
        "test_error_percent": 0.56,
        "paper_error_percent": 0.7,
        "sessions": [{"commit": "f" * 40}, {**session, "gpu": "NVIDIA H200"}],
        "history": {
            "epoch": [1, 2],
            "train_loss": [0.5, 0.25],
            "train_accuracy": [0.875, 0.96875],
            "test_loss": [0.25, 0.125],
            "test_accuracy": [0.98, 0.9944],
            "seconds": [60.0, 61.0],
        },
    }
    (folder / "result.json").write_text(json.dumps(settings | result))
    return folder


# --- what is on the page ------------------------------------------------------------------------------------------


def test_the_page_says_what_the_run_has_recorded(trained, tmp_path, capsys):
    from PIL import Image

    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    shown = make(folder)
    out, err = capsys.readouterr()
    size = (folder / "report.html").stat().st_size
    assert (out, err) == (f"{folder / 'report.html'}, {size / 1000:,.0f} kB: open it in a browser\n", "")
    assert size < 3_000_000

    config = json.loads((folder / "config.json").read_text())
    last = (folder / "metrics.csv").read_text().splitlines()[-1].split(",")
    accuracy = float(last[4])
    assert f"test accuracy{100 * accuracy:.2f} %{round(120 * (1 - accuracy))} of 120 test digits misread" in shown.text
    assert f"epochs{EPOCHS} of {EPOCHS}" in shown.text
    assert "parameters27,360" in shown.text  # as test_train_mnist counts them
    assert "seed7" in shown.text
    assert f"stn on {config['data_name']}" in shown.text
    assert config["environment"]["numpy"] in shown.text
    assert config["commit"] is None or f"commit{config['commit'][:7]}" in shown.text
    assert "not finished" not in shown.text.lower()
    assert str(tmp_path) not in shown.text  # where somebody's files are is nobody's business

    watch = viz.Watch.read(folder / "watch.npz")
    assert [picture["src"][:15] for picture in shown.pictures] == ["data:image/gif;", *["data:image/png;"] * 3]
    with Image.open(io.BytesIO(shown.content(0))) as animation:
        assert animation.n_frames == len(watch.moments["step"]) == 4
    for place, name in ((1, "warped_digits.png"), (3, "hardest_mistakes.png")):
        assert shown.content(place) == (folder / name).read_bytes()
    before, after = watch.distorted[1].mean(), watch.means["sharpness"][-1].mean()
    assert f"from {100 * before:.1f} % to {100 * after:.1f} %" in shown.text
    assert shown.tags.count("svg") == 2 + 4
    assert shown.tags.count("circle") == 2 * 2 * EPOCHS


def test_a_page_is_well_made_and_loads_nothing(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    import check

    shown = make(run)
    assert len(shown.pictures) == 4
    assert all(address.startswith("data:") for address in shown.fetched)
    assert not {"script", "link", "iframe", "object"} & set(shown.tags)
    assert check.faults(run) == []  # a language, descriptions of pictures, the order of headings, links


def test_settings_are_text_and_nothing_else(run):
    evil = '</title><script>alert("1")</script> $title \'&'
    change(run / "config.json", model=evil, data_name=evil, recipe_name=evil, commit=evil)
    change(run / "config.json", environment={"processor": evil}, recipe={"epochs": EPOCHS, evil: evil})
    shown = make(run)
    assert "script" not in shown.tags
    assert f"{evil} on {evil}" in shown.text
    assert shown.tags.count("title") - shown.tags.count("circle") == 1


def test_a_run_of_the_table_is_shown_with_what_the_paper_has(table1):
    shown = make(table1)
    assert "ST-CNN affine on MNIST, distorted by RTS" in shown.text
    assert "test accuracy99.44 %56 of 10,000 test digits misread" in shown.text
    assert "test error0.56 %in the paper: 0.7 %" in shown.text
    assert "training2 minNVIDIA H200" in shown.text
    assert "parameters398,933" in shown.text
    assert "commit0123456with changes that were not committed" in shown.text  # of the last session
    assert "numpy2.9.9" in shown.text.replace("\n", "")
    assert [shown.content(i) for i in range(3)] == [
        (table1 / name).read_bytes() for name in ("warp.gif", "before_and_after.png", "mean_images.png")
    ]
    assert shown.tags.count("svg") == 2
    assert "examples/reproduce_table1.py does not record θ" in shown.text
    assert "examples/reproduce_table1.py does not draw them." in shown.text


def test_an_unfinished_run_of_the_table_is_known_by_its_checkpoint(table1, run):
    (table1 / "result.json").unlink()
    (table1 / "watch.npz").unlink()  # so that nothing is drawn, which takes time
    shutil.copy(run / "checkpoint.safetensors", table1)
    change(table1 / "settings.json", recipe={"epochs": 10})
    shown = make(table1)
    assert f"Not finished: {EPOCHS} of 10 epochs so far." in shown.text
    accuracy = records.read_checkpoint(run / "checkpoint.safetensors").info["history"][-1]["test_accuracy"]
    assert f"test accuracy{100 * accuracy:.2f} %" in shown.text
    (table1 / "checkpoint.safetensors").unlink()
    assert "The run has left no checkpoint.safetensors yet" in make(table1).text


def test_a_network_without_a_transformer(run):
    for name in ("watch.npz", "theta.csv", "warped_digits.png", "warp.gif", "mean_images.png"):
        (run / name).unlink()
    change(run / "config.json", model="cnn")
    shown = make(run)
    assert "cnn has no transformer" in shown.text
    assert "watch.npz" not in shown.text
    assert [picture["alt"] for picture in shown.pictures] == [
        "Misread test digits with the true and the predicted label"
    ]
    assert shown.tags.count("svg") == 2


# --- what a run lacks ---------------------------------------------------------------------------------------------


def test_what_an_unfinished_run_has_drawn_before_is_not_shown_as_what_it_does_now(run):
    change(run / "config.json", recipe={"epochs": 5})
    shown = make(run)
    assert f"Not finished: {EPOCHS} of 5 epochs so far." in shown.text
    assert len(shown.pictures) == 4
    assert shown.content(1) != (run / "warped_digits.png").read_bytes()  # but one of the watch
    assert shown.content(3) == (run / "hardest_mistakes.png").read_bytes()
    assert shown.text.count("Drawn when this run had finished once, before it went on.") == 1


@pytest.mark.parametrize(
    ("name", "content", "said", "pictures", "charts"),
    [
        ("metrics.csv", None, "The run has left no metrics.csv, which comes with its first complete epoch.", 4, 4),
        ("metrics.csv", b"epoch,train_loss\n", "metrics.csv has no complete epoch.", 4, 4),
        ("metrics.csv", b"epoch,train_loss\n1,0.5\n", "metrics.csv is damaged: expected numbers epoch, train_", 4, 4),
        ("metrics.csv", b"\xff\x00", "metrics.csv is damaged: ", 4, 4),
        ("theta.csv", None, "The run has left no theta.csv, ", 4, 2),
        ("theta.csv", b"epoch,angle_mean\n0.0,nan\n", "theta.csv is damaged: expected numbers epoch, angle_mean", 4, 2),
        ("hardest_mistakes.png", None, "The run has left no hardest_mistakes.png.", 3, 6),
        ("hardest_mistakes.png", b"GIF89a", "hardest_mistakes.png is damaged (", 3, 6),
    ],
)
def test_what_is_missing_or_damaged_is_said_in_its_place(run, name, content, said, pictures, charts):
    (run / "watch.npz").unlink()  # so that nothing is drawn, which takes time
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    shown = make(run)
    assert said in shown.text
    assert (len(shown.pictures), shown.tags.count("svg")) == (pictures, charts)


@pytest.mark.parametrize("content", [None, b"PK\x03\x04"])
def test_without_a_watch_there_is_what_the_run_has_drawn(run, content):
    for name in ("watch.npz", "warp.gif", "mean_images.png"):
        (run / name).unlink()
    if content is not None:
        (run / "watch.npz").write_bytes(content)
    shown = make(run)
    assert len(shown.pictures) == 2
    for name in ("warp.gif", "mean_images.png"):
        reason = "There is no watch.npz either" if content is None else "watch.npz, of which it could be drawn, is dam"
        assert f"The run has left no {name}. {reason}" in shown.text


def test_a_truncated_picture_is_drawn_again_where_that_can_be(run):
    for name in ("warped_digits.png", "hardest_mistakes.png"):
        (run / name).write_bytes((run / name).read_bytes()[:-500])
    shown = make(run)
    assert len(shown.pictures) == 3
    assert shown.content(1).startswith(b"\x89PNG")
    assert "hardest_mistakes.png is damaged (" in shown.text
    (run / "watch.npz").unlink()
    shown = make(run)
    assert len(shown.pictures) == 2
    assert "warped_digits.png is damaged (" in shown.text


def test_a_result_with_damaged_columns(table1):
    change(table1 / "result.json", history={"epoch": [1, 2], "test_accuracy": [0.5]})
    shown = make(table1)
    assert "result.json is damaged: expected history to be lists of numbers, one as long as the other" in shown.text
    assert shown.tags.count("svg") == 0
    assert len(shown.pictures) == 3


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        (
            "config.json",
            '{"model": "stn"',
            "config.json: expected JSON, got something damaged (Expecting ',' delimiter",
        ),
        ("config.json", "[1]", "config.json: expected the settings of a run, with model and recipe, got [1]"),
        (
            "config.json",
            '{"model": "stn", "recipe": {}}',
            "config.json: expected the settings of a run, with model and",
        ),
        ("settings.json", "{}", "settings.json: expected the settings of a run, with model and recipe, got {}"),
        ("metrics.csv", "", ": expected a folder with config.json, of examples/train_mnist.py, or settings.json, of"),
        (None, "", ": expected a folder with config.json, of examples/train_mnist.py, or settings.json, of examples/"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(tmp_path, capsys, name, content, line):
    if name is not None:
        (tmp_path / name).write_text(content)
    before = os.listdir(tmp_path)
    assert call(tmp_path) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"report: {tmp_path}")
    assert line in err
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == before


def test_a_page_that_cannot_be_written_is_refused_and_the_old_one_stays(run, tmp_path, capsys, monkeypatch):
    for folder, got in ((tmp_path / "no", "a name that does not exist"), (run / "config.json", "a file")):
        assert call(folder) == 2
        assert capsys.readouterr().err == f"report: {folder}: expected the folder of a run, got {got}\n"
    for out in (tmp_path, tmp_path / "no" / "page.html"):
        assert call(run, "--out", out) == 2
        expected = "expected the name of a file in a folder that exists"
        assert capsys.readouterr().err == f"report: --out {out}: {expected}\n"

    def fail(*_):
        raise OSError(28, "No space left on device")

    (run / "report.html").write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    assert call(run) == 2
    assert capsys.readouterr().err == "report: [Errno 28] No space left on device\n"
    assert (run / "report.html").read_text() == "old"
    assert not list(run.glob(".*.part"))


# --- curves -------------------------------------------------------------------------------------------------------


def test_ticks():
    assert curves.steps(0, 3, whole=True) == [0, 1, 2, 3]
    assert curves.steps(1, 24, whole=True) == [0, 5, 10, 15, 20, 25]
    assert curves.steps(-0.31, 0.1) == pytest.approx([-0.4, -0.3, -0.2, -0.1, 0, 0.1])
    assert curves.steps(1, 1) == pytest.approx([0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.6])
    assert curves.powers(0.6, 13) == [0.5, 1, 2, 5, 10, 20]
    assert curves.powers(1, 1) == [1, 2]
    assert curves.powers(0.0003, 20) == [0.0001, 0.001, 0.01, 0.1, 1, 10, 100]


def test_a_chart_puts_values_where_they_belong():
    svg = curves.chart(
        [curves.Line("first", [1, 2, 3], [100, 10, 1], "a < b", marked=True)], "y", description='"', log=True
    )
    centres = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert [x for x, _ in centres] == [curves.LEFT + 8, (curves.LEFT + curves.RIGHT) / 2, curves.RIGHT - 8]
    (_, top), (_, middle), (_, bottom) = centres
    assert bottom == curves.BOTTOM
    assert middle - top == pytest.approx(bottom - middle, abs=0.1)  # decades; rounded to a tenth of a unit
    assert "a &lt; b" in svg
    assert 'aria-label="&quot;"' in svg
    assert "<title>epoch 2: 10</title>" in svg


def test_a_band_goes_around_its_line():
    svg = curves.chart([curves.Line("first", [0, 1], [1, 3], spread=[1, 0])], "y", description="d", at=0)
    x, y = (curves.LEFT + 8, curves.RIGHT - 8), {0: curves.BOTTOM, 3: 12.0}
    unit = (y[0] - y[3]) / 3
    outline = [(x[0], y[0] - 2 * unit), (x[1], y[3]), (x[1], y[3]), (x[0], y[0])]
    drawn = re.search(r'class="band first" d="M([^Z]*)Z"', svg).group(1)
    points = [tuple(map(float, point.split())) for point in drawn.split("L")]
    assert points == [pytest.approx(point, abs=0.06) for point in outline]  # rounded to a tenth of a unit


def test_one_epoch_and_a_perfect_network_can_be_drawn(run):
    rows = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text(f"{rows[0]}\n1,0.0,1.0,0.0,1.0,100.0,6000.0\n")
    change(run / "config.json", recipe={"epochs": 1})
    shown = make(run)
    assert "test accuracy100.00 %0 of 120 test digits misread" in shown.text
    assert "training1.7 h" in shown.text
    numbers = re.findall(r'c[xy]="([^"]*)"', (run / "report.html").read_text())
    assert len(numbers) == 8
    assert all(math.isfinite(float(number)) for number in numbers)


# --- the command, and a browser -----------------------------------------------------------------------------------


def test_the_command(run):
    command = [sys.executable, "-m", "ministn", "report", str(run), "--out", str(run / "page.html")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert Page((run / "page.html").read_text()).tags.count("svg") == 6
    assert not (run / "report.html").exists()


def test_help_loads_nothing_heavy():
    code = (
        f"import runpy, sys; sys.argv = ['ministn', 'report', '--help']\n"
        f"try: runpy.run_module('ministn', run_name='__main__', alter_sys=True)\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert "usage: python -m ministn report" in result.stdout
    assert result.stdout.endswith("[]\n")


def test_scripts_that_the_page_names_exist():
    assert all((ROOT / script).is_file() for script in (runs.TRAIN_MNIST, runs.TABLE1))


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
LOOK = """<script>addEventListener("load", () => parent.postMessage([
  innerWidth,
  [...document.images].filter(image => image.complete && image.naturalWidth > 0).length,
  document.documentElement.scrollWidth - document.documentElement.clientWidth,
  [...document.querySelectorAll("svg text")].filter(text => {
    const [inner, outer] = [text, text.ownerSVGElement].map(element => element.getBoundingClientRect());
    return inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.bottom > outer.bottom + 1;
  }).length,
], "*"))</script>"""


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: Chromium or Chrome")
def test_in_a_browser_all_pictures_load_and_nothing_is_wider_than_the_screen(run, tmp_path):
    """Two frames, as wide as a desktop's window and a phone's, tell this page what they see of the report, from file://
    and with its rule that nothing but what is inlined may be loaded: only this test's script is let through."""
    make(run)
    text = (run / "report.html").read_text()
    assert "default-src 'none'; img-src data:" in text
    text = text.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    (run / "report.html").write_text(text.replace("</body>", f"{LOOK}</body>"))
    widths = (1200, 360)
    frames = "".join(f'<iframe width="{width}" height="800" src="run/report.html"></iframe>' for width in widths)
    hear = 'addEventListener("message", event => document.body.append(JSON.stringify(event.data) + "\\n"))'
    (tmp_path / "frames.html").write_text(f"<!DOCTYPE html><body><script>{hear}</script>{frames}")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=10000", "--dump-dom", (tmp_path / "frames.html").as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    seen = sorted(json.loads(line) for line in re.findall(r"\[\d+,\d+,\d+,\d+\]", result.stdout))
    assert seen == [[360, 4, 0, 0], [1200, 4, 0, 0]], result.stderr
