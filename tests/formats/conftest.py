"""Machines that run tests are busy: how long an example takes says nothing. HYPOTHESIS_EXAMPLES asks for more."""

import os

from hypothesis import settings

settings.register_profile("untimed", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "40")))
settings.load_profile("untimed")
