"""Sphinx's settings for `make docs`; the HTML needs nothing from the network."""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
META = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = META["name"]
release = META["version"]
author = f"the {project} authors"
copyright = f"{author}, {META['license']}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"  # ships its scripts and uses the system's fonts
html_title = project
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
suppress_warnings = [
    "ref.python"
]  # an annotation `bytes` also matches fields `x.bytes`


CODE_OR_MARK = re.compile(r"`+([^`]+)`+|[|*]|_(?!\w)")


def literal_or_escaped(match: re.Match[str]) -> str:
    """RST's literal for Markdown's `code`; a backslash before a mark of RST's."""
    return f"``{match[1]}``" if match[1] else rf"\{match[0]}"


def tables(text: str) -> str:
    """Tables as literal blocks, and everything else with the code and marks of RST."""
    blocks = re.split(r"(?m)((?:^\|.*(?:\n|$))+)", text)
    for i, block in enumerate(blocks):
        if i % 2:
            blocks[i] = "\n::\n\n" + re.sub(r"(?m)^", "   ", block.rstrip()) + "\n\n"
        else:
            blocks[i] = CODE_OR_MARK.sub(literal_or_escaped, block)
    return "".join(blocks)


def returned(text: str) -> str:
    """Several values under "Returns:" as paragraphs: napoleon expects a single one."""

    def paragraphs(match: re.Match[str]) -> str:
        body = re.sub(r"(?m)^   +", "  ", match[2])
        return match[1] + re.sub(r"(?m)^  (\w+): ", r"\n  *\1* - ", body)

    return re.sub(r"(?m)(^Returns:\n)((?:^  .*(?:\n|$))+)", paragraphs, text)


def markdown(app, what, name, obj, options, lines: list[str]) -> None:
    """Turns a docstring, which is Markdown in Google's style, into RST for napoleon."""
    lines[:] = returned(tables("\n".join(lines))).split("\n")


def setup(app) -> None:
    app.connect("autodoc-process-docstring", markdown, priority=400)  # before napoleon
