"""Figures that reports, inference and analysis share."""
