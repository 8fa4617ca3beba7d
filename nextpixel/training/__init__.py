"""Training on lightning: settings, the module, callbacks, and one run from data to report."""
