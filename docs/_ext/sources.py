"""Code on the pages, quoted from the source by name; and a page for every source file that a page links to.

A page says ``{quote} ministn/kernels/grid_sample/cuda.cu`` with a name or several, and gets these definitions as they
stand in the file, comments and all. A name that is not defined there, or twice, is an error.

Links such as ``[cpu.py](cpu.py)`` work on the repository's host, in a README beside the file as well as here: the site
has the file as a page of its own.
"""

from __future__ import annotations

import ast
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
_SCHEME = "source:"
_LANGUAGES = {
    ".py": "python", ".cu": "cuda", ".cuh": "cuda", ".h": "c++", ".cpp": "c++", ".json": "json", ".md": "markdown",
    ".toml": "toml",
}  # fmt: skip
# The (target) of links and images. Code is matched first, and left alone.
_LINK = re.compile(r"^(?P<fence>```+|~~~+).*?^(?P=fence)|`[^`\n]+`|(?<=\])\((?P<to>[^)\s]+)\)", re.M | re.S)


# --- quotes -----------------------------------------------------------------------------------------------------------


class Quote(SphinxDirective):
    """The definitions of some names in a file of the repository; without names, the whole file."""

    required_arguments = 1
    has_content = True
    option_spec = {"body": directives.flag}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        path, names = self.arguments[0], " ".join(self.content).split()
        file = REPOSITORY / path
        self.env.note_dependency(str(file))
        text = file.read_text()
        try:
            places = [definition(text, name, file.suffix) for name in names] or [(0, len(text.splitlines()))]
        except LookupError as error:
            raise self.error(f"{path}: {error}") from error
        lines = text.splitlines()
        code = "\n\n".join(textwrap.dedent("\n".join(lines[first:last])) for first, last in places)
        block = nodes.literal_block(code, code, language=_LANGUAGES[file.suffix])
        link = nodes.reference("", "", nodes.literal("", path), refuri=f"{_SCHEME}{path}#L-{places[0][0] + 1}")
        caption = nodes.caption("", "", link, nodes.Text(f", from line {places[0][0] + 1}"))
        wrapper = nodes.container("", caption, block, literal_block=True, classes=["literal-block-wrapper"])
        self.set_source_info(block)
        self.set_source_info(wrapper)
        return [wrapper]


def definition(text: str, name: str, suffix: str) -> tuple[int, int]:
    """The lines [first, last) in which `name` is defined, with decorators and the comment right above it.

    Raises
    ------
    LookupError
        If it is not defined, or more than once.
    """
    lines = text.splitlines()
    if suffix == ".py":
        body: list[Any] = [ast.parse(text)]
        for part in name.split("."):  # a method is Class.method
            inner = [child for node in body for child in node.body]
            body = [node for node in inner if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == part]
        found = [(min([n.lineno, *(d.lineno for d in n.decorator_list)]) - 1, n.end_lineno) for n in body]
    else:
        heads = re.compile(rf"^(?:[^\s/#][^(){{}}]*)?\b{re.escape(name)}\b *(?:\(|\{{)")
        found = [(index, _closing_line(lines, index) + 1) for index, line in enumerate(lines) if heads.match(line)]
    if len(found) != 1:
        raise LookupError(f"expected one definition of {name}, found {len(found)}")
    first, last = found[0]
    while first and (lines[first - 1].startswith(("//", "#", "template", 'extern "C"')) and lines[first - 1] != "#"):
        if lines[first - 1].startswith(("#include", "#define", "#pragma")):
            break
        first -= 1
    return first, last


def _closing_line(lines: list[str], start: int) -> int:
    depth = opened = 0
    for index in range(start, len(lines)):
        code = lines[index].split("//")[0]
        opened += code.count("{")
        depth += code.count("{") - code.count("}")
        if opened and depth == 0:
            return index
    raise LookupError(f"no closing brace for line {start + 1}")


# --- links ------------------------------------------------------------------------------------------------------------


def with_links(text: str, folder: Path) -> str:
    """Markdown of a file in `folder`, its links to files of the repository made to lead to pages of the site."""

    def link(match: re.Match[str]) -> str:
        to = match["to"]
        if to is None or re.match(r"[a-z]+:|#|/", to):
            return match[0]
        path, _, anchor = to.partition("#")
        target = Path(os.path.normpath(folder / unquote(path)))
        return f"({_page_of(target)}{'#' + anchor if anchor else ''})" if target.exists() else match[0]

    return _LINK.sub(link, text)


def _page_of(target: Path) -> str:
    family = target.parent if target.name == "README.md" else target
    if family.parent == REPOSITORY / "ministn" / "kernels" and (DOCS / "kernels" / f"{family.name}.md").exists():
        return f"/kernels/{family.name}.md"
    if family == REPOSITORY / "ministn" / "kernels":
        return "/kernels/index.md"
    if target.is_relative_to(DOCS) and target.suffix in (".md", ".png", ".gif"):
        return f"/{target.relative_to(DOCS)}"
    return f"{_SCHEME}{target.relative_to(REPOSITORY)}"


def _on_source_read(app: Sphinx, docname: str, content: list[str]) -> None:
    if app.env.doc2path(docname).suffix == ".md":
        content[0] = with_links(content[0], (DOCS / docname).parent)


def _on_include_read(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    content[0] = with_links(content[0], (DOCS / path).resolve().parent)


def _on_doctree_resolved(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for reference in doctree.findall(nodes.reference):
        uri = reference.get("refuri", "")
        if uri.startswith(_SCHEME):
            path, _, anchor = uri.removeprefix(_SCHEME).partition("#")
            _pages(app).add(path)
            page = app.builder.get_relative_uri(docname, f"source/{path}")
            reference["internal"] = True
            reference["refuri"] = page + ("#" + anchor if anchor else "")


# --- a page for each file ---------------------------------------------------------------------------------------------


def _pages(app: Sphinx) -> set[str]:
    if not hasattr(app, "ministn_source_pages"):
        app.ministn_source_pages = set()  # type: ignore[attr-defined]
    return app.ministn_source_pages  # type: ignore[attr-defined,no-any-return]


def _source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    if app.builder.name != "html":
        return
    wanted, done = sorted(_pages(app)), set()
    while wanted:
        path = wanted.pop()
        if path in done:
            continue
        done.add(path)
        file = REPOSITORY / path
        if file.is_dir():
            children = sorted(child for child in file.iterdir() if child.suffix in _LANGUAGES and child.is_file())
            wanted += [str(child.relative_to(REPOSITORY)) for child in children]
            links = "".join(f'<li><a href="{file.name}/{child.name}.html">{child.name}</a></li>' for child in children)
            body = f"<ul>{links}</ul>"
        else:
            language = _LANGUAGES.get(file.suffix, "text")
            body = app.builder.highlighter.highlight_block(  # type: ignore[attr-defined]
                file.read_text(), language, force=True, lineanchors="L", anchorlinenos=True
            )
        title = f"{path}"
        yield f"source/{path}", {"title": title, "body": f"<h1>{title}</h1>{body}", "parents": []}, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("quote", Quote)
    app.connect("source-read", _on_source_read)
    app.connect("include-read", _on_include_read)
    app.connect("doctree-resolved", _on_doctree_resolved)
    app.connect("html-collect-pages", _source_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
