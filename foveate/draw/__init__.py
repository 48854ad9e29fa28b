"""Pictures of what a method decided."""
