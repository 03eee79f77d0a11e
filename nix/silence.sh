# One more hour without a sync; after 7 days the last agent that synced takes over, or the same one begins anew.
count="$NIXFLEET_RESCUE_STATE/silent-hours"
hours=$(cat "$count" 2>/dev/null || true)
case $hours in "" | *[!0-9]* | ?????*) hours=0 ;; esac
hours=$((hours + 1))
if [ "$hours" -lt 168 ]; then
  # With a full disk there is nothing to count with; an agent that syncs takes the file away.
  echo "$hours" >"$count" || true
  exit 0
fi
echo 0 >"$count" || true
good=$(readlink /nix/var/nix/gcroots/nixfleet/last-good || true)
if [ -n "$good" ] && [ -x "$good/bin/nixfleet" ] && [ "$good" != "$NIXFLEET_RESCUE_PACKAGE" ] \
  && ! systemctl is-active --quiet nixfleet-rescue.service; then
  systemctl --no-block start nixfleet-rescue.service
else
  systemctl --no-block restart nixfleet-agent.service
fi
