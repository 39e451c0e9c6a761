"""Networks for videos: ViViT and its relatives."""
