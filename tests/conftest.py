"""Settings every test shares."""

import hypothesis

hypothesis.settings.register_profile("default", deadline=None)  # wall time is never asserted, on slow machines least
hypothesis.settings.load_profile("default")
