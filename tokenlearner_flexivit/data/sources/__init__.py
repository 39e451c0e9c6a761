"""Sources of examples: datasets by name, and folders of images or videos."""
