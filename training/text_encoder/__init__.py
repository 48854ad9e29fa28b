"""How the embedded text encoder was trained and scored."""
