"""A few lines of HTML for a notebook's page."""

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

CELL = "text-align: left; padding: 0.1em 1.2em 0.1em 0"
LINE = "margin-top: 0.4em; max-width: 60em"


def page(headline: str, rows: Sequence[Sequence[str]], lines: Iterable[str] = ()) -> str:
    """A headline, a table whose first row names the columns, and lines below it."""
    division = ElementTree.Element("div")
    ElementTree.SubElement(division, "strong").text = headline
    table = ElementTree.SubElement(division, "table")
    for i, row in enumerate(rows):
        line = ElementTree.SubElement(table, "tr")
        for cell in row:
            ElementTree.SubElement(line, "td" if i else "th", style=CELL).text = cell
    for text in lines:
        ElementTree.SubElement(division, "div", style=LINE).text = text
    return ElementTree.tostring(division, encoding="unicode", method="html")
