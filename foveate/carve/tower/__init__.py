"""Inside the vision tower: what it attends to, and fewer tokens between its layers."""
