"""Pure tensor code: budgets, layouts, plans, scores. Imports torch and foveate.errors only."""
