"""What the weights are, what they do to the gradient, and what of the theory holds."""
