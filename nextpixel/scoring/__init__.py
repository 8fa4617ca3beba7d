"""How good a model is: exact likelihoods over a data set, and simple codes to compare with."""
