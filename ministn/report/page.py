"""The page of a run: headline figures, pictures with a sentence each, curves, and how it was trained."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from ministn import viz
from ministn.report.curves import Line, chart
from ministn.report.runs import TABLE1, TRAIN_MNIST, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = "https://arxiv.org/abs/1506.02025"
MISTAKES = "hardest_mistakes.png"  # of which a watch knows nothing
KINDS = {".png": "image/png", ".gif": "image/gif"}
Draw = Callable[[viz.Watch, str], bytes]  # the content of a file, of a watch and what it is of


def render(run: Run) -> str:
    """The page as HTML. What the run lacks is said in its place."""
    sections: list[tuple[str, str]] = []
    if run.transformer:
        sections += [
            ("Watch it learn where to look", _animation(run)),
            ("What it does to digits now", _warped(run)),
            ("The mean digit, before and after", _means(run)),
        ]
    else:
        nothing = f"{run.network} has no transformer: there is no warp to be seen, only how well it reads."
        sections.append(("No transformer to watch", f"<p>{escape(nothing)}</p>"))
    sections.append(("How fast it learned", _learning(run)))
    if run.transformer:
        sections.append(("The transformation, in numbers", _theta(run)))
    sections += [("The hardest mistakes", _mistakes(run)), ("How it was trained", _details(run))]
    template = Template(Path(__file__).with_name("page.html").read_text())
    return template.substitute(
        title=escape(f"{run.network} on {run.data}"),
        introduction=_introduction(run),
        figures=_figures(run),
        sections="\n".join(f"<section>\n<h2>{title}</h2>\n{content}\n</section>" for title, content in sections),
    )


# --- in figures ---------------------------------------------------------------------------------------------------


def _introduction(run: Run) -> str:
    what = (
        "A spatial transformer is a small network that looks at an image, answers with numbers θ where to look, and "
        f'reads the image there, before anything else does (<a href="{PAPER}">Jaderberg et al., 2015</a>). Nobody '
        "tells it what is straight: it learns what makes digits easier to read."
        if run.transformer
        else "A network that reads digits as they come, to compare those with a spatial transformer with."
    )
    parts = [f"<p>{what}</p>"]
    if not run.finished:
        state = f"Not finished: {len(run.history)} of {run.epochs} epochs so far."
        parts.append(f'<p class="notice">{state} This page shows what there was when it was made.</p>')
    return "\n".join(parts)


def _figures(run: Run) -> str:
    about, figures = run.about, []
    if run.history:
        accuracy, images = run.history[-1]["test_accuracy"], about.get("test_images")
        misread = ""
        if isinstance(images, int):
            misread = f"{round((1 - accuracy) * images):,} of {images:,} test digits misread"
        figures.append(("test accuracy", f"{100 * accuracy:.2f} %", misread))
        if isinstance(paper := about.get("paper_error_percent"), (int, float)):
            figures.append(("test error", f"{100 * (1 - accuracy):.2f} %", f"in the paper: {paper:g} %"))
    figures.append(("epochs", f"{len(run.history)} of {run.epochs}", ""))
    if run.history:
        seconds = sum(row["seconds"] for row in run.history)
        figures.append(("training", _duration(seconds), _machine(about)))
    parameters = about.get("parameters")
    figures += [
        ("parameters", f"{parameters:,}" if isinstance(parameters, int) else "not recorded", ""),
        ("seed", str(about.get("seed", "not recorded")), ""),
        ("commit", *_commit(about)),
    ]
    cells = [
        f'<div><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd><dd class="more">{escape(more)}</dd></div>'
        for name, value, more in figures
    ]
    cells = [cell.replace('<dd class="more"></dd>', "") for cell in cells]
    lacking = "" if run.history else _lacking(run.lacking["history"])
    return "\n".join([lacking, '<dl class="figures">', *cells, "</dl>"])


def _machine(about: dict[str, Any]) -> str:
    device = str(about.get("device", ""))
    if device.startswith("gpu"):
        return device.removeprefix("gpu, ")
    processor, threads = _recorded(about.get("environment"), "processor") or "", about.get("threads")
    return f"{processor}, {threads} thread{'s' * (threads != 1)}" if isinstance(threads, int) else processor


def _commit(about: dict[str, Any]) -> tuple[str, str]:
    commit = about.get("commit")
    if not isinstance(commit, str):
        return "not recorded", ""
    return commit[:7], "" if about.get("clean") else "with changes that were not committed"


# --- pictures -----------------------------------------------------------------------------------------------------


def _animation(run: Run) -> str:
    return _picture(
        run,
        "warp.gif",
        "Digits with the sampling grid over them, and below each what the classifier sees, from the beginning of the "
        "training to its end",
        "Follow the blue grid, the points that the network reads: it begins as the whole image, and moves until the "
        "digit below it stands as the classifier likes it.",
        _gif,
    )


def _warped(run: Run) -> str:
    if run.script == TRAIN_MNIST:
        return _picture(
            run,
            "warped_digits.png",
            "A test digit of each class: as it comes, with the sampling grid over it, and as the classifier sees it",
            "Compare the first row with the last: the grid between them shows where the network reads, and its orange "
            "edge becomes the top.",
            _of_each_digit,
        )
    return _picture(
        run,
        "before_and_after.png",
        "Several distortions of the same digits: as they come, with the sampling grid, and as the classifier sees them",
        "See whether the last row of a digit is more alike than its first row: then the network has undone what the "
        "distortion did.",
        _of_each_digit,
    )


def _means(run: Run) -> str:
    watch, change = run.watch, ""
    if watch is not None and watch.distorted is not None and watch.means["step"]:
        before, after = watch.distorted[1].mean(), watch.means["sharpness"][-1].mean()
        change = f" Here the sharpness goes from {100 * before:.1f} % to {100 * after:.1f} %."
    return _picture(
        run,
        "mean_images.png",
        "The mean image of each class, as its digits come and after the transformer at several moments of the training",
        "From row to row, look for edges that get sharper: the digits of a class then lie more exactly on one another."
        + change,
        None if watch is None or watch.distorted is None else _mean_images,
    )


def _mistakes(run: Run) -> str:
    return _picture(
        run,
        MISTAKES,
        "Misread test digits with the true and the predicted label"
        + (", and below each what the classifier saw" if run.transformer else ""),
        "Ask yourself what you would have read before you blame the network; in brackets is how sure it was of its "
        "wrong answer.",
        None,
    )


def _picture(run: Run, name: str, alt: str, caption: str, draw: Draw | None) -> str:
    """The picture that the run has drawn at its end, or one of what it has recorded so far, with a sentence below."""
    path, reason = run.folder / name, ""
    content: bytes | None = None
    if path.exists():
        content, reason = _intact(path)
    else:
        reason = f"The run has left no {name}{'' if run.finished else ' yet'}."
        if name == MISTAKES and run.script == TABLE1:
            reason = f"{run.script} does not draw them."
    if draw is not None and run.watch is not None and (content is None or not run.finished):
        # What a run that went on had drawn when it was shorter is not what it does now.
        content = draw(run.watch, f"{run.network} on {run.data}, test digits")
    elif content is not None and not run.finished:
        caption += " Drawn when this run had finished once, before it went on."
    if content is None:
        return _lacking(f"{reason} {'' if name == MISTAKES else run.lacking.get('watch', '')}")
    source = f"data:{KINDS[path.suffix]};base64,{base64.b64encode(content).decode()}"
    return (
        f'<figure><div class="picture"><img src="{source}" alt="{escape(alt)}"></div>\n'
        f'<figcaption>{escape(caption)} <span class="hint">(It goes on to the right.)</span></figcaption></figure>'
    )


def _intact(path: Path) -> tuple[bytes | None, str]:
    """The content of a picture; None, and the reason, if it is damaged."""
    from PIL import Image

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            if KINDS[path.suffix] != image.get_format_mimetype():
                raise ValueError(f"its content is {image.format}")
            for frame in range(getattr(image, "n_frames", 1)):
                image.seek(frame)
                image.load()
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: a broken PNG
        return None, f"{path.name} is damaged ({str(error).replace(str(path), path.name)})."
    return content, ""


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _of_each_digit(watch: viz.Watch, data: str) -> bytes:
    digits = (2, 3, 4, 7) if watch.images.shape[1] > 1 else watch.labels.tolist()
    return _png(viz.before_and_after(watch, digits, data=data))


def _mean_images(watch: viz.Watch, data: str) -> bytes:
    return _png(viz.mean_images(watch, data=data))


def _gif(watch: viz.Watch, data: str) -> bytes:
    watched = watch.labels.tolist()
    digits = [digit for digit in (2, 3, 4, 6, 7, 9) if digit in watched] or watched[:6]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "warp.gif")
        viz.warp_animation(watch, path, digits, data=data)
        return path.read_bytes()


# --- curves -------------------------------------------------------------------------------------------------------


def _learning(run: Run) -> str:
    if not run.history:
        return _lacking(run.lacking["history"])
    epochs = [row["epoch"] for row in run.history]

    def lines(name: str, value: Callable[[float], float]) -> list[Line]:
        return [
            Line(style, epochs, [value(row[f"{which}_{name}"]) for row in run.history], label, marked=True)
            for style, which, label in (
                ("grey", "train", "training digits, while learning"),
                ("first", "test", "test digits, after the epoch"),
            )
        ]

    error = 100 * (1 - run.history[-1]["test_accuracy"])
    smallest = 1e-6  # on a logarithmic axis there is no 0
    charts = [
        _chart(
            "Misread digits",
            chart(
                lines("accuracy", lambda accuracy: max(100 * (1 - accuracy), 0.01)),
                "misread digits in %",
                log=True,
                description=f"Curves of misread training and test digits; the last test value is {error:.2f} %",
            ),
            f"After the last epoch, {error:.2f} of 100 test digits are misread; each step of the axis is a factor.",
        ),
        _chart(
            "Loss",
            chart(
                lines("loss", lambda loss: max(loss, smallest)),
                "mean loss",
                log=True,
                description="Curves of the loss on training and test digits over the epochs",
            ),
            "What training makes small, about −log of the probability of the true digit; where grey falls on while "
            "blue rises, the network learns digits by heart.",
        ),
    ]
    head = ("epoch", "train loss", "train accuracy", "test loss", "test accuracy", "seconds")
    rows = [
        (
            f"{row['epoch']:g}",
            f"{row['train_loss']:.4f}",
            f"{100 * row['train_accuracy']:.2f} %",
            f"{row['test_loss']:.4f}",
            f"{100 * row['test_accuracy']:.2f} %",
            f"{row['seconds']:.1f}",
        )
        for row in run.history
    ]
    cells = "".join(f"<th>{name}</th>" for name in head)
    body = "\n".join("<tr>" + "".join(f"<td>{value}</td>" for value in row) + "</tr>" for row in rows)
    table = (
        f"<details><summary>All epochs as a table</summary>\n"
        f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table></div></details>'
    )
    return f"{_side_by_side(charts)}\n{table}"


def _theta(run: Run) -> str:
    if not run.theta:
        return _lacking(run.lacking["theta"])
    epochs = [row["epoch"] for row in run.theta]

    def line(part: str, style: str = "first", name: str = "") -> Line:
        mean, spread = ([row[f"{part}_{what}"] for row in run.theta] for what in ("mean", "std"))
        return Line(style, epochs, mean, name, spread)

    def both(part: str) -> list[Line]:
        return [line(f"{part}_x", "first", "along x"), line(f"{part}_y", "second", "along y")]

    last = run.theta[-1]
    charts = [
        _chart(title, chart(lines, unit, at=identity, description=f"{title} over training: {now}"), f"{reading} {now}.")
        for title, lines, unit, identity, reading, now in (
            (
                "Angle",
                [line("angle")],
                "degrees",
                0,
                "Above 0 the grid turns clockwise, and the digit anti-clockwise; in the end:",
                f"{last['angle_mean']:.1f}° on average",
            ),
            (
                "Scale",
                both("scale"),
                "grid size / input size",
                1,
                "Below 1 the grid is smaller than the image, and the digit is magnified; in the end:",
                f"{last['scale_x_mean']:.2f} along x, {last['scale_y_mean']:.2f} along y",
            ),
            (
                "Shear",
                [line("shear")],
                "x per y",
                0,
                "Above 0 the grid leans to the left (\\), and the digit to the right (/); in the end:",
                f"{last['shear_mean']:.2f} on average",
            ),
            (
                "Shift",
                both("shift"),
                "half input sizes",
                0,
                "Above 0 the grid moves to the right (x) or down (y); in the end:",
                f"{last['shift_x_mean']:.2f} along x, {last['shift_y_mean']:.2f} along y",
            ),
        )
    ]
    note = (
        "Lines are means over test digits, bands one standard deviation to either side: the wider the band, the more "
        "the network treats each digit in its own way. Dotted: the identity, where it begins."
    )
    return f"{_side_by_side(charts)}\n<p>{note}</p>"


def _chart(title: str, svg: str, caption: str) -> str:
    return f"<figure><h3>{title}</h3>\n{svg}\n<figcaption>{escape(caption)}</figcaption></figure>"


def _side_by_side(charts: Iterable[str]) -> str:
    return '<div class="charts">\n' + "\n".join(charts) + "\n</div>"


# --- how it was trained -------------------------------------------------------------------------------------------


def _details(run: Run) -> str:
    """Settings and versions. Paths of the machine are left out: the page is to be shown around."""
    about, environment = run.about, run.about.get("environment")
    facts: list[tuple[str, Any]] = [
        ("made by", run.script),
        ("recipe", about.get("recipe_name")),
        *((str(name).replace("_", " "), value) for name, value in about["recipe"].items()),
        ("training images", about.get("train_images")),
        ("test images", about.get("test_images")),
        ("a part of the data only", about.get("quick")),
        ("seed", about.get("seed")),
        ("device", about.get("device")),
        ("threads", about.get("threads")),
        ("began", about.get("started")),
        ("commit", about.get("commit")),
        *((name, _recorded(environment, name)) for name in ("ministn", "python", "numpy", "numba", "processor")),
    ]
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(_said(value))}</td></tr>'
        for name, value in facts
        if value is not None
    ]
    return '<div class="scroll"><table><tbody>\n' + "\n".join(rows) + "\n</tbody></table></div>"


def _said(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _recorded(table: Any, name: str) -> str | None:
    value = table.get(name) if isinstance(table, dict) else None
    return value if isinstance(value, str) else None


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _lacking(sentence: str) -> str:
    return f'<p class="notice">{escape(sentence.strip())}</p>'
