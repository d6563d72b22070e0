"""Reads for people: how models stand, what they were used for, and what a call would come to."""
