"""Images with captions in a table: `captions:/path`."""
