"""FlexiViT's image tower beside a text tower, at one patch size or all."""
