"""What readers see as text: sentences and tables in Markdown, and the library's own lines. No torch, no matplotlib."""

from __future__ import annotations

import ast
import textwrap
from numbers import Integral, Real

import pandas as pd
from IPython.display import Markdown, display

from emolib.profiles import ROOT


def say(text: str) -> None:
    """Show text as Markdown: a number in prose is an output, so that nbval guards it."""
    display(Markdown(text))


def show(frame: pd.DataFrame) -> None:
    """Show a DataFrame as a Markdown table, without its index."""
    display(Markdown(markdown(frame)))


def markdown(frame: pd.DataFrame) -> str:
    """A DataFrame as a Markdown table without its index: columns of numbers aligned right, None and NaN as an en dash."""
    columns = [[cell(value) for value in frame[name]] for name in frame]
    right = [
        i > 0 and all(text.lstrip("*").removeprefix("&lt; ")[:1] in "–-+0123456789" for text in column)
        for i, column in enumerate(columns)
    ]
    lines = [[cell(name) for name in frame], ["--:" if r else ":--" for r in right], *zip(*columns, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value) -> str:
    """A value as the text of a table cell: None and NaN an en dash, whole numbers with commas, "|" and "<" escaped."""
    if value is None or (isinstance(value, Real) and value != value):
        return "–"
    if isinstance(value, Real) and not isinstance(value, bool):
        return f"{int(value):,}" if isinstance(value, Integral) or float(value).is_integer() else f"{value:g}"
    return str(value).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def source(*dotted: str) -> None:
    """Show the library's own lines of functions, classes or methods, decorators and docstrings as they are.

    dotted: names within the package ("models.networks.FaceCNN"), whose modules are not imported. Raises ValueError for a name
    that the package does not define.
    """
    display(Markdown("\n\n".join(f"```python\n{lines(name)}\n```" for name in dotted)))


def lines(dotted: str) -> str:
    """The file and the lines where a dotted name of the package is defined, found without importing it."""
    parts = dotted.split(".")
    files = {i: ROOT.joinpath("emolib", *parts[:i]).with_suffix(".py") for i in range(1, len(parts))}
    split = next((i for i, file in files.items() if file.is_file()), None)
    if split is None:
        raise ValueError(f"emolib has no module for {dotted!r}; wanted a name such as models.heads.zero_shot")
    text = files[split].read_text(encoding="utf8")
    found: ast.AST = ast.parse(text)
    for part in parts[split:]:
        inside = {node.name: node for node in ast.iter_child_nodes(found) if hasattr(node, "name") and hasattr(node, "body")}
        if part not in inside:
            raise ValueError(
                f"{files[split].relative_to(ROOT)} defines no {part!r} for {dotted!r}; found {', '.join(inside)}"[:300]
            )
        found = inside[part]
    first = min(node.lineno for node in (found, *found.decorator_list))
    shown = "\n".join(text.splitlines()[first - 1 : found.end_lineno])
    return f"# {files[split].relative_to(ROOT).as_posix()}\n{textwrap.dedent(shown)}"


def percent(value: float | None, digits: int = 1) -> str:
    """0.9312 -> "93.1"; None -> an en dash."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def interval(low_high: tuple[float, float], digits: int = 1) -> str:
    """(0.92, 0.94) -> "92.0–94.0", in %."""
    return f"{percent(low_high[0], digits)}–{percent(low_high[1], digits)}"


def spread(score: dict, name: str = "accuracy") -> str:
    """ "93.1 ± 0.2 (92.0–94.2)" in %: ± between seeds where there are several, the interval where it was computed."""
    between, low_high = score[f"{name}_sd"], score.get(f"{name}_interval")
    return percent(score[name]) + (f" ± {percent(between)}" if between is not None else "") + (
        f" ({interval(low_high)})" if low_high else ""
    )  # fmt: skip


def signed(change: tuple[float, tuple[float, float]], between: float | None = None) -> str:
    """A change in points with its interval, ± between seeds where that is given: "-1.3 ± 0.2 (-2.0 to -0.6)"."""
    value, (low, high) = change
    more = "" if between is None else f" ± {percent(between)}"
    return f"{100 * value:+.1f}{more} ({100 * low:+.1f} to {100 * high:+.1f})"


def p_value(value: float) -> str:
    """0.0123 -> "0.012"; below a thousandth "< 0.001"."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
