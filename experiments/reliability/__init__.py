"""Killed runs and other faults against a run that nothing disturbed."""
