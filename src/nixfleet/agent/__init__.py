"""The agent: decides alone, on the device, what it installs."""
