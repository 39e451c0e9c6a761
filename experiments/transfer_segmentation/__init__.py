"""FlexiViT transferred to semantic segmentation, for one patch size or all."""
