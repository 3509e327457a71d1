import numpy as np
import pytest

from tests.tiny_pipeline import random_pipeline


@pytest.fixture(scope="session")
def tiny():
    """A pipeline whose compiled graphs the tests share; they leave its components as they are."""
    return random_pipeline(np.random.default_rng(0))
