"""The gateway and the model catalogue. Imports governance, never billing."""
