"""The notebook of the exporter runs anew and prints what is stored in it."""

import notebook_output
import pytest

pytestmark = pytest.mark.export


@pytest.mark.slow
def test_the_notebook_prints_what_is_stored(tmp_path):
    notebook_output.assert_runs_as_stored("own-models.ipynb", tmp_path)
