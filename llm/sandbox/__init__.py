"""A simulated Mistral that speaks the real wire format: for the demo, the tests and the benchmark."""

from llm.sandbox.behaviour import Behaviour, ControlError
from llm.sandbox.service import Received, Sandbox

__all__ = ["Behaviour", "ControlError", "Received", "Sandbox"]
