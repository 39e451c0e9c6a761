"""What is inside of trained models: FlexiViT's statements, at a small depth."""
