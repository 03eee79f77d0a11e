"""What the console draws with; widgets know records and roles, never the API."""
