"""docs/engines.md shows the examples for other engines as they are; `make check-engines` runs them, with the SDKs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "engines.md").read_text()
EXAMPLES = sorted((ROOT / "examples" / "engines").glob("*.py"))
ENGINES = ["Temporal", "Camunda 8", "Airflow", "Celery"]


def test_the_page_shows_each_example_whole() -> None:
    shown = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
    assert shown == {str(path.relative_to(ROOT)): path.read_text() for path in EXAMPLES}
    assert PAGE.count("```python\n") == len(shown)


def test_the_table_has_a_row_for_each_engine() -> None:
    assert re.findall(r"^\| (?!engine|---)(.*?) \|", PAGE, re.MULTILINE) == ENGINES
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE)[1:] == ENGINES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_takes_at_most_sixty_lines(path: Path) -> None:
    assert len([line for line in path.read_text().splitlines() if line.strip()]) <= 60
