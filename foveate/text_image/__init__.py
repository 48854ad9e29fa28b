"""Text to pixels: fonts, lines, strips, and the exact map from characters to pixels."""
