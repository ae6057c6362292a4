"""Settings every test shares."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tensors of tests are too small for two

import hypothesis

hypothesis.settings.register_profile("default", deadline=None)  # wall time is never asserted, on slow machines least
hypothesis.settings.load_profile("default")
