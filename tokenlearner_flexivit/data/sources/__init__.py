"""Sources of examples: datasets by name, and folders of one's own."""
