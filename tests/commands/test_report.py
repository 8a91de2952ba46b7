"""`tapir report`: mistakes of its command line. The pages have their own tests, in tests/report."""

from pathlib import Path

import pytest

from tapir_exp.commands.report import main
from tapir_exp.core.errors import StoreError


@pytest.mark.parametrize("options", [[], ["--paper"]], ids=["report", "paper"])
def test_missing_directory_is_an_error_with_a_remedy(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(StoreError, match="nowhere is not a directory; give that of a run"):
        main([*options, str(tmp_path / "nowhere")])
    assert list(tmp_path.iterdir()) == []
