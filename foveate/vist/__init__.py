"""Vist: far text as pictures that a language model reads. Knows no model: parts are injected."""
