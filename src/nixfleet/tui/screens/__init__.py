"""The console's screens; they read the store and post intents, and never call the API."""
