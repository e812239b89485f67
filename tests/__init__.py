"""Tests of the service. What has to be set before anything is imported stands here."""

import os

# Hypothesis would load Trio, for a plugin of it, into every process.
os.environ.setdefault("HYPOTHESIS_NO_PLUGINS", "1")
