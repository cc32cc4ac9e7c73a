"""Attaché's constructions, written a second time from their definitions alone."""
