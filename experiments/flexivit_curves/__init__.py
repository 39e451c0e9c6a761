"""FlexiViT's image-classification figures on rendered_scenes and digits."""
