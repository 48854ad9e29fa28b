"""Other people's harnesses and servers, run on carved models: one adapter per engine."""
