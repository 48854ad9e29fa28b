"""Long text as pages that an off-the-shelf vision-language model reads, carved."""
