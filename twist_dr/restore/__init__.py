"""Restores: the gate, the impact, two phases, and the way back."""
