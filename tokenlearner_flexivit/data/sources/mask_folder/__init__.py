"""Folders of images and masks as a source of examples."""
