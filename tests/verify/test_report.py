"""What a report says, to people and to programs."""

import html
import io
import json

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from jaxnet.verify import Finding, Report, verify_gradient
from tests.verify.rules import normal, squares


def both(params):
    return squares(params["w"]) + squares(params["b"])


@pytest.fixture(scope="module")
def params():
    return {"w": normal(2, 3), "b": normal(3, seed=1)}


@pytest.fixture(scope="module")
def failed(params):
    return verify_gradient(both, lambda p: {"w": -2 * p["w"], "b": 2 * p["b"]}, params, key=jax.random.key(0))


@pytest.fixture(scope="module")
def passed(params):
    return verify_gradient(both, lambda p: {"w": 2 * p["w"], "b": 2 * p["b"]}, params, key=jax.random.key(0))


def rich_text(report):
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(report)
    return console.export_text()


def test_truth_is_the_verdict(failed, passed):
    assert (bool(failed), failed.passed, bool(passed), passed.passed) == (False, False, True, True)


@pytest.mark.parametrize("render", [str, rich_text], ids=["text", "rich"])
def test_table_of_a_failure_says_what_is_wrong(render, failed):
    text = render(failed)
    (finding,) = failed.findings
    conditions = ("device cpu", "float32", "float64", f"points {failed.conditions['points']}")
    for part in (
        "FAILED",
        "['w']",
        "sign",
        finding.explanation,
        f"{finding.candidate:.6g}",
        finding.where,
        *conditions,
    ):
        assert part in text, part


@pytest.mark.parametrize("render", [str, rich_text], ids=["text", "rich"])
def test_table_of_a_pass_lists_the_leaves(render, passed):
    text = render(passed)
    assert "PASSED" in text
    assert all(leaf in text for leaf in ("['w']", "['b']"))
    assert set(passed.leaves) == {"['w']", "['b']"}
    assert all(0 <= units < 100 for units in passed.leaves.values())


@pytest.mark.parametrize("name", ["failed", "passed"])
def test_repr_is_one_line(name, request):
    report = request.getfixturevalue(name)
    assert "\n" not in repr(report)
    assert name.upper() in repr(report).upper()


def test_raise_if_failed_raises_the_table(failed, passed):
    passed.raise_if_failed()
    with pytest.raises(AssertionError) as caught:
        failed.raise_if_failed()
    assert str(caught.value) == str(failed)


def test_json_holds_everything(failed):
    record = json.loads(failed.to_json())
    (finding,) = failed.findings
    assert record["passed"] is False
    assert record["findings"] == [finding._asdict() | {"index": list(finding.index)}]
    assert (record["leaves"], record["notes"]) == (failed.leaves, list(failed.notes))
    assert (record["subject"], record["conditions"]) == (failed.subject, failed.conditions)


def test_json_has_no_numbers_that_json_does_not_know():
    finding = Finding("[0]", "shape", "words", None, jnp.inf, float("nan"))
    record = json.loads(Report("a", (finding,), {"[0]": float("inf")}).to_json(), parse_constant=pytest.fail)
    assert (record["findings"][0]["expected"], record["leaves"]["[0]"]) == ("nan", "inf")


def test_row_says_nan_for_an_element_that_is_nan_and_nothing_where_there_is_no_element():
    at_element = Finding("[0]", "non_finite", "words", (2,), float("nan"), 1.5)
    of_the_whole = Finding("[1]", "structure", "words", None, float("nan"), float("nan"))
    assert str(Report("a", (at_element,))).count("nan") == 1
    assert "nan" not in str(Report("a", (of_the_whole,)))


def test_notes_are_in_the_table():
    report = Report("a", notes=("a convention",))
    assert "note: a convention" in str(report)
    assert "note: a convention" in rich_text(report)


def test_page_holds_what_the_text_holds():
    for report in (
        Report("f < g", (), {"[0]": 3.0}, ("a & b",)),
        Report("f", (Finding("[0]", "scale", "twice < it"),)),
    ):
        shown = report._repr_html_()
        for text in (*(cell for row in report._rows() for cell in row), *report.notes):
            assert html.escape(text, quote=False) in shown
        assert str(report).splitlines()[0] in html.unescape(shown)
        assert shown.count("<tr>") == 2
