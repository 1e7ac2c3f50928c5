"""Perch: the speech gateway for Riva, Speech NIM and local engines."""

__version__ = "0.1.0"
