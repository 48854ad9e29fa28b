"""What foveate costs and saves on a GPU: random weights of real shapes, row by row."""
