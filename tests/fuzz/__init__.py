"""Anything at all on the command line, in files and on terminals; `make fuzz` tries most."""
