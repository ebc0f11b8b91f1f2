import pytest

from app.channels.table import load
from tests.channels.tables import FORMATS, write


@pytest.fixture
def read(tmp_path):
    return lambda text, **environment: load(write(tmp_path, text), environment, FORMATS)
