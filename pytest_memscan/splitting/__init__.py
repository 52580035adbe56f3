"""Steering trajectories of the stochastic reverse process, and weighing them back."""
