"""The source of a folder of images, under its import path of version 0.1."""

from tokenlearner_flexivit.data.sources.folder import FolderSource

__all__ = ["FolderSource"]
