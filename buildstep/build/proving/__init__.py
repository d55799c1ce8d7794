"""A build done again: with other surroundings, to prove that they decide nothing, or of what a record has."""
