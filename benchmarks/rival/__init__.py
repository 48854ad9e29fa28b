"""The closest rival, AngelSlim's token_compressor, beside foveate in one process."""
