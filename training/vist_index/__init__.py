"""Training of the embedded Vist's index: which segment of a document a question is about."""
