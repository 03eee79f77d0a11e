#!@shell@
# Stand-in for the switch-to-configuration of NixOS: the same verbs, order of steps and exit codes.
#   1 usage, not NixOS, lock held, pre-switch check or boot loader failed | 2 activation failed | 4 units failed | 100 takes a reboot
# Tests steer it by files in /var/lib/stc: hold (waits while it is there), sleep (seconds), hook (a program run with the
# verb), fail-VERB (exit code), fail-bootloader, failed-units (names). Every call, with the lock or not, is a line in /var/lib/stc/log.
PATH=@path@:/usr/bin:/bin  # the host's for flock, which not every busybox has
verb=$1; state=/var/lib/stc
case "$verb" in check|switch|boot|test|dry-activate) ;; *) echo "Usage: $0 [check|switch|boot|test|dry-activate]" >&2; exit 1;; esac
[ -e /etc/NIXOS ] || { echo "This is not a NixOS installation!" >&2; exit 1; }
mkdir -p "$state" /run/nixos /boot/loader
echo "$verb @out@ $(cat @out@/nixos-version)" >> "$state/log"
exec 9>>/run/nixos/switch-to-configuration.lock
flock -n 9 || { echo "Could not acquire lock" >&2; exit 1; }
while [ -e "$state/hold" ]; do usleep 20000; done
[ ! -e "$state/sleep" ] || sleep "$(cat "$state/sleep")"
[ ! -x "$state/hook" ] || "$state/hook" "$verb" 9>&-
if [ -e "$state/fail-$verb" ]; then echo "error: injected failure in $verb" >&2; exit "$(cat "$state/fail-$verb")"; fi
[ "$verb" != check ] || exit 0
if [ "$verb" = boot ] || [ "$verb" = switch ]; then
  [ ! -e "$state/fail-bootloader" ] || { echo "Failed to install bootloader" >&2; exit 1; }
  echo "updating the boot loader..." >&2
  echo "@out@" > /boot/loader/default.new; mv /boot/loader/default.new /boot/loader/default
fi
[ "$verb" != boot ] || exit 0
running=$(cat /run/current-system/init-interface-version 2>/dev/null || cat @out@/init-interface-version)
if [ "$running" != "$(cat @out@/init-interface-version)" ]; then
  echo "Warning: the new NixOS configuration has an 'init' that is incompatible with the current configuration." >&2
  echo "The new configuration won't take effect until you reboot the system." >&2; exit 100; fi
if [ "$verb" = dry-activate ]; then echo "would activate the configuration..." >&2; exit 0; fi
code=0; echo "activating the configuration..." >&2
@out@/activate 9>&- || { echo "Failed to run activate script" >&2; code=2; }
echo "reloading the following units: dbus.service" >&2
if [ -e @out@/broken-unit ] || [ -e "$state/failed-units" ]; then
  echo "warning: the following units failed: $(cat "$state/failed-units" @out@/broken-unit 2>/dev/null)" >&2; code=4; fi
exit $code
