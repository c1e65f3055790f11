"""Learn from wrong answers: Monte Carlo step advantages and per-step DPO for OpenRLHF."""

__version__ = "0.1.0"
