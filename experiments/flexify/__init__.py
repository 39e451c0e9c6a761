"""A trained ViT made flexible by learning from itself, without labels."""
