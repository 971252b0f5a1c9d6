"""Tells what a prompt is trying to do, in the context it arrives in."""

__version__ = "0.1.0"
