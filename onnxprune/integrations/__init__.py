"""Passes for other tools; none is imported unless that tool asks for it."""
