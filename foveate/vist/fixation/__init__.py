"""Skim, then look: once a question is known, the places it points at are read as text."""
