"""Shows the table of a failed verification below the test that asserted it.

pytest prints one line of a value that is not true. The report itself is found among the local variables of the frame
that failed, where `assert` keeps what it looked at, too.
"""

import sys
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo) -> Iterator[Any]:
    """Adds a section for every failed report in the frame of an assertion that failed."""
    result = yield
    module = sys.modules.get("jaxnet.verify.report")  # not imported here, so that plain test runs stay light
    if module is not None and call.excinfo is not None and call.excinfo.errisinstance(AssertionError):
        for text in dict.fromkeys(map(str, _failed_reports(call.excinfo, module.Report))):
            result.sections.append(("jaxnet.verify", text))
    return result


def _failed_reports(excinfo: pytest.ExceptionInfo, kind: type) -> list[Any]:
    values = excinfo.traceback[-1].frame.f_locals.values()
    return [value for value in values if isinstance(value, kind) and not value.passed]
