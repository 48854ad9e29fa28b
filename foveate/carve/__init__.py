"""Carve: fewer visual tokens inside an unmodified vision-language model."""
