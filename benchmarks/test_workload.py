"""Making a run of records of each workload. 100,000 a second on one core leave 10 us for one, half of it for sending."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import workload

RECORDS = 10_240


@pytest.mark.parametrize("name", workload.NAMES)
def test_workload(stated: Any, name: str) -> None:
    generator = workload.Generator(workload.shape(name), 12, workload.Mix(duplicates=0.05, poison=0.001))
    nbytes = sum(len(made.value or b"") for made in generator.records(0, 0, RECORDS))
    stated(lambda: list(generator.records(0, 0, RECORDS)), rows=RECORDS, nbytes=nbytes)
