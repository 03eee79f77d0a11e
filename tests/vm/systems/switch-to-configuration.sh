#!@shell@
# Stand-in for the switch-to-configuration of NixOS under a real systemd: the same order of steps, exit codes and
# treatment of units (switch-to-configuration-ng, main.rs). Every call is a line in /var/lib/stc/log.
PATH=@path@:/usr/bin
verb=$1; state=/var/lib/stc
case "$verb" in check|switch|boot|test|dry-activate) ;; *) echo "Usage: $0 [check|switch|boot|test|dry-activate]" >&2; exit 1;; esac
[ -e /etc/NIXOS ] || { echo "This is not a NixOS installation!" >&2; exit 1; }
mkdir -p "$state" /run/nixos
echo "$verb @out@" >> "$state/log"
exec 9>>/run/nixos/switch-to-configuration.lock
flock -n 9 || { echo "Could not acquire lock" >&2; exit 1; }
[ "$verb" != check ] || exit 0
if [ "$verb" = boot ] || [ "$verb" = switch ]; then
  echo "updating the boot loader..." >&2
  echo "@out@" > /boot/loader/default.new; mv /boot/loader/default.new /boot/loader/default; sync
fi
[ "$verb" != boot ] || exit 0
if [ "$(cat /run/current-system/init-interface-version)" != "$(cat @out@/init-interface-version)" ]; then
  echo "Warning: the new NixOS configuration has an 'init' that is incompatible with the current configuration." >&2
  echo "The new configuration won't take effect until you reboot the system." >&2; exit 100; fi
old=$(readlink -f /etc/systemd/system); new=@out@/etc/systemd/system; stop= restart= start=
for unit in "$old"/*.service "$old"/*.timer; do
  name=${unit##*/}
  systemctl is-active --quiet "$name" || continue
  if [ ! -e "$new/$name" ]; then
    grep -q '^X-StopOnRemoval=false' "$unit" || stop="$stop $name"
  elif ! cmp -s "$unit" "$new/$name"; then
    if grep -q '^X-RestartIfChanged=false' "$new/$name"; then echo "NOT restarting the following changed units: $name" >&2
    elif grep -q '^X-StopIfChanged=false' "$new/$name"; then restart="$restart $name"
    else stop="$stop $name"; start="$start $name"; fi
  fi
done
[ -z "$stop" ] || { echo "stopping the following units:$stop" >&2; systemctl stop $stop; }
code=0; echo "activating the configuration..." >&2
@out@/activate 9>&- || { echo "Failed to run activate script" >&2; code=2; }
systemctl reset-failed
echo "reloading the unit files..." >&2
systemctl daemon-reload || code=3
[ -z "$restart" ] || { echo "restarting the following units:$restart" >&2; systemctl restart $restart || code=4; }
# All active targets too, so that what they want and is not running starts.
systemctl start multi-user.target timers.target $start || code=4
failed=$(systemctl list-units --state=failed --plain --no-legend | cut -d' ' -f1)
[ -z "$failed" ] || { echo "warning: the following units failed: $failed" >&2; code=4; }
[ ! -e @out@/ends-the-agent ] || systemctl stop nixfleet-agent.service nixfleet-rescue.service
exit $code
