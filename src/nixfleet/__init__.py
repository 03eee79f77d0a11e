"""nixfleet: fleet management for NixOS devices that dial out."""

__version__ = "0.1.0"
