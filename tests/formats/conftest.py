"""Hypothesis has no deadline: machines that run tests are busy. HYPOTHESIS_EXAMPLES sets the number of examples."""

import os

from hypothesis import settings

settings.register_profile("untimed", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "40")))
settings.load_profile("untimed")
