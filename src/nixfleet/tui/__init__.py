"""The console: always a client of the HTTP API."""
