"""Methods and budgets compared on a data set, with controls, intervals and cost."""
