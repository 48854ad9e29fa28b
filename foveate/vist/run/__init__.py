"""Vist at work: loaded, attached to a model, reading documents and answering."""
