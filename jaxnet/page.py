"""A few lines of HTML for a notebook's page."""

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree


def page(headline: str, rows: Sequence[Sequence[str]], lines: Iterable[str] = ()) -> str:
    """A headline, a table whose first row names the columns, and lines below it."""
    division = ElementTree.Element("div")
    ElementTree.SubElement(division, "strong").text = headline
    table = ElementTree.SubElement(division, "table")
    for i, row in enumerate(rows):
        line = ElementTree.SubElement(table, "tr")
        for cell in row:
            ElementTree.SubElement(line, "td" if i else "th").text = cell
    for text in lines:
        ElementTree.SubElement(division, "div").text = text
    return ElementTree.tostring(division, encoding="unicode", method="html")
