"""What runs inside the workers of a training run: clips, steps, recipes; nothing here knows Ray."""
