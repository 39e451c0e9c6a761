"""Folders with annotations in COCO's JSON as a source of examples."""
