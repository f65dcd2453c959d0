"""How the networks are trained: losses, optimisers and the stages they make up."""
