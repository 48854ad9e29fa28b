"""How the embedded vision-language model was trained and scored."""
