"""FlexiViT and TokenLearner transferred to panoptic segmentation (UViM)."""
