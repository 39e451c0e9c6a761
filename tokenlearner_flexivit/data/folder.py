"""The source of a folder of images, where version 0.1 had it."""

from tokenlearner_flexivit.data.sources.folder import FolderSource

__all__ = ["FolderSource"]
