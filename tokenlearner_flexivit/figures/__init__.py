"""Drawing that reports, inference and analysis share."""
