"""From a recipe to a dataset: what is sampled, and what is handed on."""
