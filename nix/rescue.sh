# Start the last agent that synced, with the settings it synced with; where there is none, the system's own once more.
good=$(readlink /nix/var/nix/gcroots/nixfleet/last-good || true)
if [ -n "$good" ] && [ -x "$good/bin/nixfleet" ] && [ -e "$NIXFLEET_RESCUE_STATE/last-good.toml" ]; then
  exec "$good/bin/nixfleet" agent run --rescue \
    --config "$NIXFLEET_RESCUE_STATE/last-good.toml" --state-dir "$NIXFLEET_RESCUE_STATE"
fi
exec "$NIXFLEET_RESCUE_PACKAGE/bin/nixfleet" agent run
