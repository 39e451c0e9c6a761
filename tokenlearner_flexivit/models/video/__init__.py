"""Networks for videos: ViViT and its kin."""
