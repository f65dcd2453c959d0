"""A small made-up world to train and judge small models in: drawn talking heads that say one word by espeak-ng."""
