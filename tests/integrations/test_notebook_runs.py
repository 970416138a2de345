"""The notebooks run anew and print what is stored in them. own-models.ipynb: tests/export."""

import notebook_output
import pytest

pytestmark = pytest.mark.integrations
NAMES = (
    "forecasting.ipynb",
    pytest.param("late-interaction.ipynb", marks=pytest.mark.slow),
    "pages.ipynb",
    pytest.param("quantization.ipynb", marks=pytest.mark.slow),
    "search.ipynb",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_prints_what_is_stored(name, tmp_path):
    notebook_output.assert_runs_as_stored(name, tmp_path)
