"""What a model's places depend on, measured from the Jacobian and drawn."""
