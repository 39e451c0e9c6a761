"""Folders and lists of videos as a source of examples."""
