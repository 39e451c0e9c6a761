"""FlexiViT transferred to detection by names, for one patch size or all."""
